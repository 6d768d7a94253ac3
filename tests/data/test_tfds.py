"""Sets of tfds: from the official archive to arrays, prepared folders, and stock sets."""

import http.server
import json
import os
import pickle
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cls_jax.core.errors import InputError
from cls_jax.data import builders as classics
from cls_jax.data import download as fetch
from cls_jax.data import tfds as prepared
from cls_jax.data.load import describe, load
from cls_jax.data.local import resize
from tests.support.archives import (
    CIFAR10,
    CIFAR_X,
    CIFAR_Y,
    COARSE,
    COARSE_Y,
    FINE,
    MNIST_X,
    MNIST_Y,
    bring,
    cifar10_binary,
    cifar10_python,
    cifar100_binary,
    cifar100_python,
    mnist_files,
    targz,
    trust,
)
from tests.support.tfds_sets import odd_builder, stock


@pytest.fixture(scope="module")
def cifar10_dir(tmp_path_factory):
    """A data_dir with the fabricated CIFAR-10 prepared by our builder; not to be changed."""
    root = tmp_path_factory.mktemp("tfds")
    files = {"cifar-10-binary.tar.gz": cifar10_binary()}
    with pytest.MonkeyPatch.context() as patch:
        trust(patch, "cifar10", files)
        bring(root, files)
        load("cifar10", root)
    return root


@pytest.fixture
def copy(cifar10_dir, tmp_path):
    """A version folder like ``cifar10_dir``'s, to be changed: tmp_path/cifar10/3.0.2."""
    folder = tmp_path / "cifar10" / "3.0.2"
    bring(folder, {f.name: f.read_bytes() for f in (cifar10_dir / "cifar10" / "3.0.2").iterdir()})
    return folder


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def files_under(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


# --- the four classics: from the official archive to arrays


@pytest.mark.parametrize(
    ("name", "form", "make"),
    [
        ("cifar10", "cifar-10-binary", cifar10_binary),
        ("cifar10", "cifar-10-python", cifar10_python),
        ("cifar100", "cifar-100-binary", cifar100_binary),
        ("cifar100", "cifar-100-python", cifar100_python),
    ],
)
@pytest.mark.parametrize("place", ["", "downloads/manual"])
def test_cifar_from_an_archive_brought_by_hand(name, form, make, place, tmp_path, monkeypatch):
    files = {f"{form}.tar.gz": make()}
    trust(monkeypatch, name, files)
    bring(tmp_path / place, files)
    source = load(name, tmp_path)
    for split, got in (("train", source.train), ("test", source.test)):
        np.testing.assert_array_equal(got.x, CIFAR_X[split])  # ids restore the archive's order
        np.testing.assert_array_equal(got.y, CIFAR_Y[split])
    assert source.name == name
    assert source.label_names == tuple(CIFAR10 if name == "cifar10" else FINE)
    archive = Path(place, *files).parts[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([".cls_jax", name, archive])


@pytest.mark.parametrize(
    ("name", "place"), [("mnist", "."), ("mnist", "mnist"), ("fashion_mnist", "fashion_mnist")]
)
def test_mnist_from_its_four_files(name, place, tmp_path, monkeypatch):
    trust(monkeypatch, name, mnist_files())
    bring(tmp_path / place, mnist_files())
    source = load(name, tmp_path)

    def pairs(x, y):
        return sorted(image.tobytes() + bytes([label]) for image, label in zip(x, y, strict=True))

    assert source.train.x.shape == (30, 28, 28, 1)
    assert pairs(*source.train) == pairs(MNIST_X["train"], MNIST_Y["train"])
    assert pairs(*source.test) == pairs(MNIST_X["t10k"], MNIST_Y["t10k"])
    assert source.label_names[9] == ("9" if name == "mnist" else "Ankle boot")


@pytest.mark.parametrize("name", sorted(classics.CLASSICS))
def test_our_builders_stand_in_for_the_stock_ones(name, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stock = tfds.builder(name, data_dir=tmp_path)
    classic = classics.CLASSICS[name]
    assert str(stock.version) == classic.version
    official = {info.filename: info.checksum for info in stock.url_infos.values()}
    ours = {a.file: a.digest for a in classic.variants[0]}
    assert {file: f"sha256:{digest}" for file, digest in official.items()} == ours
    assert {a.url for a in classic.variants[0]} == set(stock.url_infos)

    make = {"cifar10": cifar10_binary, "cifar100": cifar100_binary}.get(name)
    files = {classic.variants[0][0].file: make()} if make else mnist_files()
    raw = classic.parse(files)
    built = classics._builder(name, classic, raw, tmp_path)
    assert built.name == name
    assert set(built.info.features) == set(stock.info.features)
    for key, feature in stock.info.features.items():
        mine = built.info.features[key]
        assert type(mine) is type(feature)
        assert (mine.shape, mine.np_dtype) == (feature.shape, feature.np_dtype)
        if key != "id" and key != "image":
            assert mine.num_classes == feature.num_classes


def test_both_cifar100_archives_hold_the_same():
    parse = classics.CLASSICS["cifar100"].parse
    for raw in (parse({"x-binary": cifar100_binary()}), parse({"x-python": cifar100_python()})):
        assert raw.names == {"label": FINE, "coarse_label": COARSE}
        for split in CIFAR_X:
            np.testing.assert_array_equal(raw.images[split], CIFAR_X[split])
            np.testing.assert_array_equal(raw.labels[split]["label"], CIFAR_Y[split])
            np.testing.assert_array_equal(raw.labels[split]["coarse_label"], COARSE_Y[split])


def test_a_wrong_archive_is_refused(tmp_path):
    bring(tmp_path, {"cifar-10-python.tar.gz": b"not it"})
    with pytest.raises(InputError, match=r"\(6 bytes\) is not the official .* its md5 is .*delete"):
        load("cifar10", tmp_path)
    assert files_under(tmp_path) == ["cifar-10-python.tar.gz"]


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/ran",))

    files = {"cifar-10-python.tar.gz": targz({"data_batch_1": pickle.dumps({b"data": Evil()})})}
    trust(monkeypatch, "cifar10", files)
    bring(tmp_path, files)
    with pytest.raises(pickle.UnpicklingError, match=r"refused (posix|nt)\.system"):
        load("cifar10", tmp_path)
    assert files_under(tmp_path) == ["cifar-10-python.tar.gz"]


@pytest.mark.parametrize("name", sorted(classics.CLASSICS))
def test_without_a_network_it_says_so_at_once_and_writes_nothing(name, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "deep" / "er"))
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        load(name)
    assert time.monotonic() - start < 10
    archive = classics.CLASSICS[name].variants[0][0]
    for part in (name, "deep/er", archive.url.split("/")[2], archive.file, "TFDS_DATA_DIR"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_exist_is_found_out_in_seconds(tmp_path, monkeypatch):
    trust(monkeypatch, "cifar10", {})
    start = time.monotonic()
    with pytest.raises(InputError, match=r"its host no-such-host.invalid does not answer"):
        load("cifar10", tmp_path)
    assert time.monotonic() - start < 10
    assert list(tmp_path.iterdir()) == []


def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch):

    def hang(*args, **kwargs):
        time.sleep(10)
        raise OSError("too late")

    monkeypatch.setattr(socket, "create_connection", hang)
    start = time.monotonic()
    assert fetch.unreachable_host("https://slow.invalid/x", seconds=0.2) == "slow.invalid"
    assert time.monotonic() - start < 5


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine: (its url, the folder that it serves)."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}", folder
        web.shutdown()


def test_what_is_missing_is_downloaded_and_checked(tmp_path, server, monkeypatch):
    (url, served), files, root = server, mnist_files(), tmp_path / "data"
    trust(monkeypatch, "mnist", files, url)
    with pytest.raises(InputError, match=r"cannot be downloaded .*404.*; try again, or put train-"):
        load("mnist", root)
    bring(served, files | {"t10k-labels-idx1-ubyte.gz": b"half"})
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte.gz \(4 bytes\) is not the offic"):
        load("mnist", root)
    assert not root.exists()
    bring(root / "mnist", {"t10k-labels-idx1-ubyte.gz": files["t10k-labels-idx1-ubyte.gz"]})
    assert len(load("mnist", root).test.y) == 20  # three downloaded, one brought
    assert sorted(p.name for p in root.iterdir()) == [".cls_jax", "mnist"]


def test_a_data_dir_that_cannot_be_written(tmp_path, monkeypatch):
    files = {"cifar-10-binary.tar.gz": cifar10_binary()}
    trust(monkeypatch, "cifar10", files)
    bring(tmp_path, files)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(InputError, match=r"data_dir='.*' cannot be written .*Permission denied"):
        load("cifar10", tmp_path)


# --- prepared folders


def test_a_prepared_set_is_decoded_once_and_again_after_a_change(copy, tmp_path, monkeypatch):
    first = load("cifar10", tmp_path)
    (cache,) = (tmp_path / ".cls_jax").iterdir()
    assert cache.name.startswith("cifar10-3.0.2-")
    monkeypatch.setattr(prepared, "_read", lambda *a: pytest.fail("decoded again"))
    for name in ("cifar10", "cifar10:3.0.2"):
        again = load(name, tmp_path)
        assert again.label_names == first.label_names
        assert isinstance(again.train.x, np.memmap)
        assert describe(again) == describe(first)
    os.utime(next(copy.glob("*-train*")), (1, 1))
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        load("cifar10", tmp_path)


def test_where_no_cache_can_be_written_the_set_is_read_all_the_same(copy, tmp_path):
    (tmp_path / ".cls_jax").write_text("a file in the way")
    np.testing.assert_array_equal(load("cifar10", tmp_path).train.x, CIFAR_X["train"])


def test_size_resizes_a_prepared_set(copy, tmp_path):
    source = load("cifar10", tmp_path, size=16)
    assert source.train.x.shape == (40, 16, 16, 3)
    np.testing.assert_array_equal(source.train.x[3], resize(CIFAR_X["train"][3], 16))
    assert load("cifar10", tmp_path).train.x.shape == (40, 32, 32, 3)


def test_tfds_itself_reads_what_we_prepared(cifar10_dir):
    import tensorflow_datasets as tfds

    source = tfds.data_source("cifar10", split="test", data_dir=cifar10_dir, download=False)
    for example in source:
        i = int(example["id"].decode().removeprefix("test_"))
        np.testing.assert_array_equal(example["image"], CIFAR_X["test"][i])
        assert example["label"] == CIFAR_Y["test"][i]


def test_an_old_tfrecord_folder_is_read_too(copy, tmp_path):
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    for file in list(copy.glob("*.array_record*")):
        source = ArrayRecordDataSource([str(file)])
        framed = (struct.pack("<QI", len(r), 0) + r + bytes(4) for r in map(source.__getitem__, range(len(source))))  # noqa: E501  # fmt: skip
        (copy / file.name.replace("array_record", "tfrecord")).write_bytes(b"".join(framed))
        file.unlink()
    rewrite(copy / "dataset_info.json", fileFormat="tfrecord")
    source = load("cifar10", tmp_path)
    np.testing.assert_array_equal(source.train.x, CIFAR_X["train"])
    np.testing.assert_array_equal(source.test.y, CIFAR_Y["test"])
    info = copy / "dataset_info.json"
    train, test = json.loads(info.read_text())["splits"]
    rewrite(info, splits=[train | {"shardLengths": ["39"]}, test])
    with pytest.raises(InputError, match=r"holds 40 examples in split 'train', not the 39 of its"):
        load("cifar10", tmp_path)
    rewrite(info, fileFormat="riegeli")
    with pytest.raises(InputError, match=r"is prepared as riegeli; only array_record and tfrecord"):
        load("cifar10", tmp_path)
    rewrite(info, fileFormat="tfrecord")
    cut = next(copy.glob("*-train*"))
    os.truncate(cut, cut.stat().st_size - 3)
    with pytest.raises(
        InputError, match=r"cifar10-train.tfrecord.* ends in the middle of a record"
    ):
        load("cifar10", tmp_path)


def test_the_highest_version_is_taken(copy, tmp_path):
    for version in ("3.0.10", "3.0.9", "3.0.99.incompleteX"):
        bring(copy.parent / version, {f.name: f.read_bytes() for f in copy.iterdir()})
    assert prepared._find(tmp_path, "cifar10", None, None).name == "3.0.10"
    assert prepared._find(tmp_path, "cifar10", None, "3.0.9").name == "3.0.9"
    assert prepared._find(tmp_path, "cifar10", None, "1.0.0") is None


def test_a_configuration_must_be_named(copy, tmp_path):
    files = {f.name: f.read_bytes() for f in copy.iterdir()}
    bring(tmp_path / "other" / "easy" / "3.0.2", files)
    with pytest.raises(InputError, match=r"has several configurations and easy .* 'other/easy'"):
        load("other", tmp_path)
    assert prepared._find(tmp_path, "other", "easy", None).name == "3.0.2"


def test_prepared_refusals(copy, tmp_path):
    info = copy / "dataset_info.json"
    original = info.read_text()
    splits = json.loads(original)["splits"]

    def refused(sentence, **changes):
        rewrite(info, **changes)
        with pytest.raises(InputError, match=sentence):
            load("cifar10", tmp_path)
        info.write_text(original)

    refused(r"has the splits train; it needs 'train', and 'test'", splits=splits[:1])
    longer = [splits[0] | {"shardLengths": ["41"]}, splits[1]]
    refused(r"'cifar10' in .* cannot be read", splits=longer)
    info.write_text("{oops")
    with pytest.raises(InputError, match=r"'cifar10' in .*3.0.2 cannot be read .*copy the folder"):
        load("cifar10", tmp_path)
    info.write_text(original)
    shard = next(copy.glob("*-test*"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cannot be read .*copy the folder again, or delete"):
        load("cifar10", tmp_path)
    shard.unlink()
    with pytest.raises(InputError, match=r"lacks 1 of its files, e.g. cifar10-test.array_record"):
        load("cifar10", tmp_path)


# --- other sets of tfds


def pictures(*shapes):
    return [Image.fromarray(np.full((h, w, 3), 9 * i, np.uint8)) for i, (h, w) in enumerate(shapes)]


def image_and_label(features):
    return {
        "image": features.Image(shape=(None, None, 3)),
        "label": features.ClassLabel(num_classes=3),
    }


def test_a_stock_set_is_prepared_by_tfds(tmp_path, monkeypatch):
    cls = odd_builder(
        [{"image": p, "label": i} for i, p in enumerate(pictures((8, 8), (8, 8), (8, 8)))],
        image_and_label,
    )
    stock(monkeypatch, cls)
    source = load("odd_set", tmp_path / "new")
    assert sorted((source.test.x[:, 0, 0, 0] // 9).tolist()) == [0, 1, 2]  # from "validation"
    np.testing.assert_array_equal(source.test.y, source.test.x[:, 0, 0, 0] // 9)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [".cls_jax", "odd_set"]


@pytest.mark.parametrize(
    ("examples", "features", "sentence"),
    [
        (
            [{"image": p, "label": 0} for p in pictures((8, 8), (8, 9))],
            image_and_label,
            r"images of differing shapes, \[8, \d, 3\] and \[8, \d, 3\]; give size",
        ),
        (
            [{"image": p, "label": -1} for p in pictures((8, 8))],
            image_and_label,
            r"hides the labels of its split 'train'",
        ),
        (
            [{"text": "a", "label": 1}],
            lambda f: {"text": f.Text(), "label": f.Scalar(np.int64)},
            r"has the features label, text; only sets with 'image' and 'label'",
        ),
        (
            [{"image": np.ones(3, np.float32), "label": 1}],
            lambda f: {
                "image": f.Tensor(shape=(3,), dtype=np.float32),
                "label": f.Scalar(np.int64),
            },
            r"holds images float32\[3\] with labels of shape \[\]; only uint8\[h, w, c\]",
        ),
    ],
)
def test_a_stock_set_that_does_not_fit(examples, features, sentence, tmp_path, monkeypatch):
    stock(monkeypatch, odd_builder(examples, features))
    with pytest.raises(InputError, match=sentence):
        load("odd_set", tmp_path)
    if "differing" in sentence:
        assert load("odd_set", tmp_path, size=4).train.x.shape == (2, 4, 4, 3)


def test_a_stock_set_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from tensorflow_datasets.core.download import downloader

    retries, during = downloader.MAX_RETRIES, []

    def build(*args, **options):
        during.append(downloader.MAX_RETRIES)
        return fetch.build(*args, **options)

    monkeypatch.setattr(prepared, "build", build)
    stock(monkeypatch, odd_builder([{"image": "/no/such.png", "label": 0}], image_and_label))
    with pytest.raises(
        InputError, match=r"tfds could not prepare 'odd_set' \(FileNotFound.*no/such.png"
    ):
        load("odd_set", tmp_path / "new" / "er")
    assert list(tmp_path.iterdir()) == []
    assert during == [2]
    assert retries == downloader.MAX_RETRIES
    assert tempfile.tempdir is None or Path(tempfile.tempdir).exists()


def test_a_stock_set_without_a_network(tmp_path, monkeypatch):
    from types import SimpleNamespace

    image = [{"image": p, "label": 0} for p in pictures((8, 8))]
    cls = odd_builder(image, image_and_label)
    stock(monkeypatch, cls)
    infos = {"http://data.invalid/a?x=1": SimpleNamespace(filename="a.zip")}
    monkeypatch.setattr(cls, "url_infos", infos)
    sentence = r"'odd_set' is not prepared .* host data.invalid does not answer; put a.zip into "
    with pytest.raises(InputError, match=sentence):
        load("odd_set", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    bring(tmp_path / "new" / "downloads" / "manual", {"a.zip": b""})
    assert len(load("odd_set", tmp_path / "new").train.y) == 1
