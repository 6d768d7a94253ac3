"""Sources: every form of name, every refusal, and the loader from an official archive to arrays."""

import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
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
from cls_jax.data.local import held_out, resize

RNG = np.random.default_rng(0)
CIFAR_X = {
    s: RNG.integers(0, 256, (n, 32, 32, 3), np.uint8) for s, n in (("train", 40), ("test", 8))
}
CIFAR_Y = {s: RNG.permutation(np.arange(len(x)) % 10).astype(np.uint8) for s, x in CIFAR_X.items()}
COARSE_Y = {s: (y // 2).astype(np.uint8) for s, y in CIFAR_Y.items()}
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
FINE, COARSE = [f"fine_{i}" for i in range(100)], [f"coarse_{i}" for i in range(20)]
MNIST_X = {s: RNG.integers(0, 256, (n, 28, 28), np.uint8) for s, n in (("train", 30), ("t10k", 20))}
MNIST_Y = {s: (np.arange(len(x)) % 10).astype(np.uint8) for s, x in MNIST_X.items()}


def targz(members):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def py2(value):
    """Opcodes as Python 2 and the NumPy of its day wrote them, which the archives hold."""
    if isinstance(value, bytes):
        return b"T" + struct.pack("<I", len(value)) + value
    if isinstance(value, list):
        return b"](" + b"".join(map(py2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(py2(k) + py2(v) for k, v in value.items()) + b"u"
    if isinstance(value, np.ndarray):
        integers = b"".join(b"J" + struct.pack("<i", n) for n in value.shape)
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            b"(K\x01(" + integers + b"tcnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
            b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + py2(value.tobytes()) + b"tb"
        )
    return b"J" + struct.pack("<i", value)


def py2_pickle(value):
    return b"\x80\x02" + py2(value) + b"."


def rows(split, *labels):
    pixels = CIFAR_X[split].transpose(0, 3, 1, 2).reshape(len(CIFAR_X[split]), -1)
    return np.concatenate([*(y[split][:, None] for y in labels), pixels], 1)


def cifar10_binary():
    parts = np.split(rows("train", CIFAR_Y), 5)
    members = {f"data_batch_{i + 1}.bin": part.tobytes() for i, part in enumerate(parts)}
    members |= {"test_batch.bin": rows("test", CIFAR_Y).tobytes(), "readme.html": b"train"}
    return targz(members | {"batches.meta.txt": "\n".join([*CIFAR10, "", ""]).encode()})


def cifar10_python():
    def part(table):
        return py2_pickle(
            {b"data": np.ascontiguousarray(table[:, 1:]), b"labels": table[:, 0].tolist()}
        )

    parts = np.split(rows("train", CIFAR_Y), 5)
    members = {f"data_batch_{i + 1}": part(table) for i, table in enumerate(parts)}
    names = py2_pickle({b"label_names": [n.encode() for n in CIFAR10]})
    return targz(members | {"test_batch": part(rows("test", CIFAR_Y)), "batches.meta": names})


def cifar100_binary():
    members = {f"{s}.bin": rows(s, COARSE_Y, CIFAR_Y).tobytes() for s in CIFAR_X}
    for kind, names in (("fine", FINE), ("coarse", COARSE)):
        members[f"{kind}_label_names.txt"] = ("\n".join(names) + "\n").encode()
    return targz(members)


def cifar100_python():
    members = {
        split: pickle.dumps(
            {
                b"data": rows(split),
                b"fine_labels": CIFAR_Y[split].tolist(),
                b"coarse_labels": COARSE_Y[split].tolist(),
            },
            protocol=2,
        )
        for split in CIFAR_X
    }
    names = {b"fine_label_names": FINE, b"coarse_label_names": COARSE}
    names = {key: [n.encode() for n in value] for key, value in names.items()}
    return targz(members | {"meta": pickle.dumps(names, protocol=2)})


def mnist_files():
    files = {}
    for part in MNIST_X:
        x, y = MNIST_X[part], MNIST_Y[part]
        head = struct.pack(">HBB3I", 0, 8, 3, *x.shape)
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(head + x.tobytes())
        head = struct.pack(">HBBI", 0, 8, 1, len(y))
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(head + y.tobytes())
    return files


def trust(monkeypatch, name, files, url="https://no-such-host.invalid"):
    """Makes ``files`` (name -> content) the official ones of ``name``, published at ``url``."""
    classic = classics.CLASSICS[name]

    def trusted(a):
        digest = (
            f"sha256:{hashlib.sha256(files[a.file]).hexdigest()}" if a.file in files else a.digest
        )
        return fetch.Archive(a.file, f"{url}/{a.file}", digest)

    variants = tuple(tuple(map(trusted, variant)) for variant in classic.variants)
    monkeypatch.setitem(classics.CLASSICS, name, classic._replace(variants=variants))


def bring(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


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


# --- names and imports


def test_importing_sources_imports_nothing_heavy():
    code = (
        "import sys, cls_jax.data.load\n"
        "print({'tensorflow', 'tensorflow_datasets', 'sklearn', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cifar11", r"'cifar11' is neither .* near it are .*cifar10.*npz:FILE"),
        ("digit", r"near it are digits"),
        ("qqqqqq", r"nor a data set of tfds; the local forms are digits, npz:FILE or folder:DIR"),
        ("a b", r"name='a b' names no data set"),
        ("mnist:3", r"name='mnist:3' names no data set"),
        ("npz:", r"name='npz:' lacks its path"),
        (7, r"name=7 must be a text"),
        ("mnist:1.0.0", r"'mnist:1.0.0' is not prepared .* mnist:3.0.1 is the only one"),
        ("svhn_cropped", r"needs TensorFlow .*cls_jax\[tf\].* file_format='array_record'"),
    ],
)
def test_a_name_that_cannot_be_loaded(name, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "_has_tensorflow", lambda: False)
    with pytest.raises(InputError, match=sentence):
        load(name, tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("size", [0, -1, 2.0, True, 5000])
def test_a_size_that_cannot_be(size):
    with pytest.raises(InputError, match=f"size={size!r} must be a whole number"):
        load("digits", size=size)


# --- digits


def test_digits_are_the_scans_enlarged_and_split_without_a_seed():
    from sklearn.datasets import load_digits

    source = load("digits")
    assert source.train.x.dtype == np.uint8
    assert source.train.x.shape == (1435, 32, 32, 3)
    assert source.test.x.shape == (362, 32, 32, 3)
    for split in (source.train, source.test):
        assert split.y.dtype == np.int32
        assert set(split.y) == set(range(10))
    scans, y = load_digits(return_X_y=True)
    test = held_out(y)
    np.testing.assert_array_equal(y[test], source.test.y)
    for i in range(0, 362, 40):  # Pillow's float resize is the same interpolation
        picture = Image.fromarray(scans[test][i].reshape(8, 8).astype(np.float32) * 255 / 16)
        want = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
        assert np.abs(source.test.x[i] - want[..., None]).max() <= 0.51
    assert describe(source)["fingerprint"] == "b30cfd395bf55bd775160666a702fbad"
    assert load("digits", size=8).train.x.shape[1:] == (8, 8, 3)
    assert load("digits", size=8).train.x.max() == 255


def test_held_out_takes_a_fifth_of_each_class():
    assert np.flatnonzero(held_out(np.array([0, 0, 1, 1, 0, 0, 0, 0, 0]))).tolist() == [1, 3, 8]


def test_describe_sees_every_byte():
    source = load("digits", size=8)
    changed = source.train.x.copy()
    changed[-1, -1, -1, -1] ^= 1
    other = source._replace(train=source.train._replace(x=changed))
    assert describe(source) == describe(load("digits", size=8))
    assert describe(source)["fingerprint"] != describe(other)["fingerprint"]
    json.dumps(describe(source))


# --- npz

IMAGES = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("keys", [0, 1, 2])
@pytest.mark.parametrize(
    "x", [IMAGES, IMAGES[..., :1], IMAGES[..., 0], RNG.normal(size=(6, 7)).astype(np.float32)]
)
def test_npz_gives_back_its_arrays(tmp_path, keys, x):
    from cls_jax.data.npz import NPZ_KEYS

    file = tmp_path / "mine.npz"
    arrays = (x, LABELS.astype(np.uint8), x[::-1], LABELS[:, None])
    np.savez(file, **dict(zip(NPZ_KEYS[keys], arrays, strict=True)))
    source = load(f"npz:{file}")
    want = x[..., None] if x.ndim == 3 else x
    assert (source.name, source.num_classes) == ("mine.npz", 3)
    np.testing.assert_array_equal(source.train.x, want)
    np.testing.assert_array_equal(source.test.x, want[::-1])
    np.testing.assert_array_equal(source.test.y, LABELS)
    assert source.train.x.dtype == x.dtype
    assert source.train.y.dtype == source.test.y.dtype == np.int32


def test_npz_is_resized_when_asked(tmp_path):
    np.savez(tmp_path / "a.npz", train_x=IMAGES, train_y=LABELS, test_x=IMAGES, test_y=LABELS)
    source = load(f"npz:{tmp_path}/a.npz", size=6)
    assert source.train.x.shape == (6, 6, 6, 3)
    np.testing.assert_array_equal(source.train.x[2], resize(IMAGES[2], 6))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_x": None}, r"must hold the arrays train_x.*it holds test_x, test_y, train_y"),
        ({"train_x": IMAGES / 255}, r"train_x is float64\[6, 5, 4, 3\]; it must be images uint8"),
        ({"train_x": IMAGES.reshape(6, -1)}, r"train_x is uint8\[6, 60\]"),
        ({"train_x": IMAGES[..., :2]}, r"train_x is uint8\[6, 5, 4, 2\]; images must have 1 or 3"),
        ({"train_x": IMAGES[:5]}, r"train_x has 5 examples but train_y has 6 labels"),
        ({"test_x": IMAGES[:, :3]}, r"train_x holds uint8\[5, 4, 3\] and test_x uint8\[3, 4, 3\]"),
        ({"train_x": np.full((6, 2), np.nan)}, r"train_x holds 12 values that are NaN"),
        ({"train_x": np.full((6, 2), 1e300)}, r"train_x holds 12 values that are NaN or beyond"),
        ({"train_y": LABELS - 1}, r"train_y has label -1; labels must be 0..C-1"),
        ({"train_y": LABELS * 1.0}, r"train_y is float64\[6\]; labels must be integers"),
        ({"train_y": LABELS + 1}, r"C = max \+ 1 = 4, but train_y has no example of class 0"),
        ({"test_y": LABELS % 2}, r"C = max \+ 1 = 3, but test_y has no example of class 2"),
        ({"test_y": LABELS * 10**12}, r"test_y has label 2000000000000; labels must be 0..C-1"),
        ({"train_x": IMAGES[:0], "train_y": LABELS[:0]}, r"train_x is empty"),
        ({"train_y": np.array([{}] * 6)}, r"train_y holds Python objects, which are not loaded"),
    ],
)
def test_npz_refusals(tmp_path, changes, sentence):
    arrays = {"train_x": IMAGES, "train_y": LABELS, "test_x": IMAGES, "test_y": LABELS} | changes
    file = tmp_path / "bad.npz"
    np.savez(file, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(InputError, match=sentence) as caught:
        load(f"npz:{file}")
    assert "bad.npz" in str(caught.value)


def test_npz_that_is_no_npz(tmp_path):
    with pytest.raises(InputError, match=r"no file .*none.npz"):
        load(f"npz:{tmp_path}/none.npz")
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", IMAGES)
    for name, why in (("text.npz", "is no NumPy .npz file"), ("one.npy", "is a single array")):
        with pytest.raises(InputError, match=f"{name} {why}"):
            load(f"npz:{tmp_path}/{name}")
    vectors = np.ones((6, 2), np.float32)
    np.savez(tmp_path / "v.npz", train_x=vectors, train_y=LABELS, test_x=vectors, test_y=LABELS)
    with pytest.raises(InputError, match=r"size=8 is for images, but .*v.npz holds vectors"):
        load(f"npz:{tmp_path}/v.npz", size=8)


# --- folder


def paint(file, colour, mode="RGB", shape=(20, 10)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, shape, colour).save(file)


def test_folder_with_its_own_split(tmp_path):
    root = tmp_path / "pets"
    for split in ("train", "test"):
        paint(root / split / "cat" / "a.png", (255, 0, 0))
        paint(root / split / "dog" / "b.GIF", 9, "P")
        paint(root / split / "dog" / "a.bmp", 77, "L")
        (root / split / "dog" / "notes.txt").write_text("no picture")
    before = files_under(tmp_path)
    source = load(f"folder:{root}")
    assert (source.name, source.label_names) == ("pets", ("cat", "dog"))
    assert source.train.x.shape == (3, 32, 32, 3)
    assert source.train.y.tolist() == [0, 1, 1]
    assert source.train.x[0, 5, 5].tolist() == [255, 0, 0]
    assert source.train.x[1, 5, 5].tolist() == [77, 77, 77]  # a.bmp before b.GIF
    assert load(f"folder:{root}", size=7).test.x.shape == (3, 7, 7, 3)
    assert files_under(tmp_path) == before


def test_folder_without_a_split_holds_out_every_fifth(tmp_path):
    for name in ("cat", "dog"):
        for i in range(7):
            paint(tmp_path / name / f"{i}.png", (i, 0, 0))
    source = load(f"folder:{tmp_path}")
    assert source.test.x[:, 0, 0, 0].tolist() == [1, 6, 1, 6]
    assert source.train.x[:, 0, 0, 0].tolist() == [0, 2, 3, 4, 5] * 2
    assert source.test.y.tolist() == [0, 0, 1, 1]


def test_folder_refusals(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*none; folder:DIR needs"):
        load(f"folder:{tmp_path}/none")
    with pytest.raises(InputError, match=r"has 0 class folders; it needs at least 2"):
        load(f"folder:{tmp_path}")
    paint(tmp_path / "cat" / "a.png", 0)
    with pytest.raises(InputError, match=r"has 1 class folder; it needs at least 2"):
        load(f"folder:{tmp_path}")
    (tmp_path / "dog").mkdir()
    with pytest.raises(InputError, match=r"dog holds no picture"):
        load(f"folder:{tmp_path}")
    paint(tmp_path / "dog" / "a.png", 0)
    with pytest.raises(InputError, match=r"cat holds one picture; a class needs two"):
        load(f"folder:{tmp_path}")
    for name in ("cat", "dog"):
        paint(tmp_path / name / "b.png", 0)
    broken = tmp_path / "dog" / "b.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match=r"dog/b.png cannot be decoded as a picture"):
        load(f"folder:{tmp_path}")
    paint(tmp_path / "train" / "cat" / "a.png", 0)
    with pytest.raises(InputError, match=r"has train/ alone"):
        load(f"folder:{tmp_path}")
    for part in ("train/dog", "test/cat", "test/cow"):
        paint(tmp_path / part / "a.png", 0)
    with pytest.raises(InputError, match=r"classes \['cow', 'dog'\] are in only one"):
        load(f"folder:{tmp_path}")


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


def odd_builder(examples, features, name="odd_set", splits=("train", "validation")):
    """A builder class of tfds that yields ``examples`` in each of ``splits``."""
    import tensorflow_datasets as tfds

    title = name

    class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = title
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            made = tfds.features.FeaturesDict(features(tfds.features))
            return tfds.core.DatasetInfo(builder=self, features=made)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self):
            yield from enumerate(examples)

    return Odd


def stock(monkeypatch, cls):
    """Makes ``cls`` a data set that tfds knows, on a machine with TensorFlow."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr(prepared, "_has_tensorflow", lambda: True)
    monkeypatch.setattr(tfds, "list_builders", lambda **_: [cls.name])
    monkeypatch.setattr(tfds, "builder_cls", lambda name: cls)
    monkeypatch.setattr(tfds, "builder", lambda name, **kwargs: cls(**kwargs))


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
