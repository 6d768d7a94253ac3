"""A tfds folder of a stranger: nothing it names is imported, opened or run."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from cls_jax.core.errors import InputError
from cls_jax.data import builders as classics
from cls_jax.data.download import build, staging
from cls_jax.data.foreign import only_pictures
from cls_jax.data.load import load

X = {split: np.full((6, 8, 8, 3), 7, np.uint8) for split in ("train", "test")}
Y = {split: {"label": np.array([0, 1, 2, 0, 1, 2])} for split in X}
TFDS = "tensorflow_datasets.core.features"


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("stranger")
    classic = classics.CLASSICS["cifar10"]._replace(has_id=False)
    raw = classics.Raw(X, Y, {"label": ["a", "b", "c"]})
    with staging(root) as stage:
        build(classics._builder("mini", classic, raw, stage), stage, root)
    return root


@pytest.fixture
def folder(prepared_once, tmp_path, monkeypatch):
    """A prepared version folder to be changed, and a module that would tell of its import."""
    shutil.copytree(prepared_once / "mini", tmp_path / "data" / "mini")
    (tmp_path / "evil_features.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "data" / "mini" / "3.0.2"


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def evil(**more):
    return {"pythonClassName": "evil_features.Image", "image": {}, **more}


def features(change):
    return lambda folder: edit(folder / "features.json", change)


def info(change):
    return lambda folder: edit(folder / "dataset_info.json", change)


def text(file, old, new):
    def change(folder):
        content = (folder / file).read_text()
        assert old in content
        (folder / file).write_text(content.replace(old, new, 1))

    return change


def of_image(**changes):
    return features(lambda c: c["featuresDict"]["features"]["image"].update(changes))


def hidden(content):
    """A feature whose content is JSON in a text, of which tfds makes features again."""
    return {"pythonClassName": f"{TFDS}.features_dict.FeaturesDict", **content}


LEGACY = {"type": "evil_features.Image", "content": {}}
NAMED = r"'mini' in .*3.0.2 names the Python class 'evil_features.Image', and only classes of tens"
ATTACKS = {
    "the whole": (features(lambda c: c.update(pythonClassName="evil_features.Image")), NAMED),
    "a feature": (of_image(pythonClassName="evil_features.Image"), NAMED),
    "a proto's own spelling": (
        features(
            lambda c: c["featuresDict"]["features"].update(
                x={"python_class_name": "evil_features.Image"}
            )
        ),
        NAMED,
    ),
    "nested": (
        features(
            lambda c: c["featuresDict"]["features"].update(
                deep={
                    "pythonClassName": f"{TFDS}.sequence_feature.Sequence",
                    "sequence": {"feature": evil()},
                }
            )
        ),
        NAMED,
    ),
    "of old": (features(lambda c: (c.clear(), c.update(LEGACY))), NAMED),
    "of old, within": (
        features(
            lambda c: (
                c.clear(),
                c.update(type=f"{TFDS}.features_dict.FeaturesDict", content={"image": LEGACY}),
            )
        ),
        NAMED,
    ),
    "JSON in a text": (
        features(
            lambda c: c["featuresDict"]["features"].update(
                x=hidden({"jsonFeature": {"json": json.dumps({"image": LEGACY})}})
            )
        ),
        NAMED,
    ),
    "JSON in a text of old": (
        features(
            lambda c: (
                c.clear(),
                c.update(
                    type=f"{TFDS}.features_dict.FeaturesDict",
                    proto_cls="tensorflow_datasets.FeaturesDict",
                    content=" " + json.dumps({"features": {"image": evil()}}),
                ),
            )
        ),
        NAMED,
    ),
    "escaped": (
        text("features.json", f"{TFDS}.image_feature.Image", "\\u0065vil_features.Image"),
        NAMED,
    ),
    "twice": (
        text(
            "features.json",
            '"pythonClassName"',
            '"pythonClassName": "evil_features.Image", "pythonClassName"',
        ),
        NAMED,
    ),
    "almost tfds": (
        of_image(pythonClassName="tensorflow_datasets_evil.Image"),
        r"names the Python class 'tensorflow_datasets_evil.Image'",
    ),
    "a deep text": (
        lambda folder: (folder / "features.json").write_text("[" * 100_000 + "]" * 100_000),
        r"'mini' in .* cannot be read \(features.json: it is no JSON object, or nested too de",
    ),
    "a deep dataset_info": (
        lambda folder: (folder / "dataset_info.json").write_text('{"a":' * 99_999 + "}" * 99_999),
        r"cannot be read \(dataset_info.json: it is no JSON object, or nested too deeply\)",
    ),
    "a list": (
        lambda folder: (folder / "features.json").write_text("[]"),
        r"cannot be read \(features.json: it is no JSON object, or nested too deeply\)",
    ),
    "not UTF-8": (
        lambda folder: (folder / "features.json").write_bytes(b"\xff\xfe{}"),
        r"cannot be read \(features.json: .*decode",
    ),
    "no features": (
        lambda folder: (folder / "features.json").unlink(),
        r"lacks its file features.j",
    ),
    "a path outside": (
        info(
            lambda c: c["splits"][0].update(
                filepathTemplate="../../../{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
            )
        ),
        r"'mini' in .* names the file '.*', which lies outside its folder",
    ),
    "an absolute path": (
        info(
            lambda c: c["splits"][0].update(
                filepathTemplate="/etc/{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
            )
        ),
        r"names the file '/etc/train.array_record-00000-of-00001', which lies outside its folder",
    ),
    "a name that is a path": (info(lambda c: c.update(name="../mini")), r"outside its folder"),
    "1e12 examples": (
        info(lambda c: c["splits"][0].update(shardLengths=["1000000000000"])),
        r"whose dataset_info.json declares 1000000000006 examples, needs 7.3 TiB of memory, but",
    ),
    "examples below 0": (
        info(lambda c: c["splits"][0].update(shardLengths=["-6"])),
        r"'mini' in .* cannot be read",
    ),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_what_a_stranger_may_not_say(folder, case):
    attack, sentence = ATTACKS[case]
    attack(folder)
    with pytest.raises(InputError, match=sentence) as caught:
        load("mini", folder.parent.parent)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "evil_features" not in sys.modules


def test_the_folder_itself_is_read_and_its_module_is_not_imported(folder):
    edit(folder / "dataset_info.json", lambda c: c.update(moduleName="evil_features"))
    edit(folder / "features.json", lambda c: c.update(description="{a set of [nothing]"))
    source = load("mini", folder.parent.parent)
    np.testing.assert_array_equal(source.train.x, X["train"])
    assert sorted(source.test.y) == sorted(Y["test"]["label"])  # tfds shuffles
    assert "evil_features" not in sys.modules


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "PPM"])
def test_a_picture_of_another_kind_is_not_given_to_pillow(
    prepared_once, tmp_path, monkeypatch, kind
):
    """PostScript would start Ghostscript."""
    content = io.BytesIO()
    Image.fromarray(X["train"][0]).save(content, kind)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("started"))
    classic = classics.CLASSICS["cifar10"]._replace(has_id=False)
    raw = classics.Raw(X, Y, {"label": ["a", "b", "c"]})
    save = Image.Image.save
    monkeypatch.setattr(
        Image.Image, "save", lambda self, file, *a, **k: file.write(content.getvalue())
    )
    with staging(tmp_path) as stage:
        build(classics._builder("mini", classic, raw, stage), stage, tmp_path)
    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(
        InputError, match=r"'mini' holds a picture that begins with b'.*'; only PNG, J"
    ):
        load("mini", tmp_path)


def test_pictures_within_features_are_checked_too():
    import tensorflow_datasets as tfds

    image = lambda: tfds.features.Image(shape=(8, 8, 3))  # noqa: E731
    deep, listed = image(), image()
    whole = tfds.features.FeaturesDict(
        {"a": {"b": deep}, "c": tfds.features.Sequence(listed), "label": tfds.features.Text()}
    )
    only_pictures("mini", whole)
    content = io.BytesIO()
    Image.fromarray(X["train"][0]).save(content, "PNG")
    for feature in (deep, listed):
        np.testing.assert_array_equal(feature.decode_example_np(content.getvalue()), X["train"][0])
        with pytest.raises(InputError, match="holds a picture that begins with b'%!PS-Ado'"):
            feature.decode_example_np(b"%!PS-Adobe-3.0 EPSF-3.0")
