"""An npz file of a stranger: every way of being damaged has one sentence, in no time and memory."""

import io
import os
import resource
import stat
import struct
import time
import zipfile

import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.data.load import load

X = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
Y = np.array([0, 1, 2, 2, 1, 0])
ARRAYS = {"train_x": X, "train_y": Y, "test_x": X, "test_y": Y}


def npy(array, version=(1, 0)):
    """The bytes of an array's file."""
    made = io.BytesIO()
    np.lib.format.write_array(made, np.asanyarray(array), version=version)
    return made.getvalue()


def with_header(text, content=b"", version=b"\x01\x00"):
    """An array's file whose header is ``text``."""
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + size + text.encode() + content


def header(descr="'|u1'", shape="(6, 5, 4, 3)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def archive(path, *, method=zipfile.ZIP_STORED, **members):
    """An npz file of ARRAYS, of which ``members`` are other bytes."""
    with zipfile.ZipFile(path, "w", method) as made:
        for key in ARRAYS:
            made.writestr(f"{key}.npy", members.pop(key, None) or npy(ARRAYS[key]))
        for name, content in members.items():
            made.writestr(name, content)
    return path


def patched(path, old, new, *, last=True):
    """The file with one of the places of ``old`` written over."""
    content = path.read_bytes()
    at = content.rindex(old) if last else content.index(old)
    path.write_bytes(content[:at] + new + content[at + len(new) :])
    return path


def declares(path, sizes):
    """The file whose table says that the first array unpacks to so many bytes."""
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", sizes)
    path.write_bytes(bytes(content))
    return path


def flagged(path, at, value):
    """The file with a field of the first member changed, in its own header and in the table."""
    content = bytearray(path.read_bytes())
    for begin in (content.index(b"PK\x03\x04") + at, content.index(b"PK\x01\x02") + at + 2):
        content[begin : begin + 2] = struct.pack("<H", value)
    path.write_bytes(bytes(content))
    return path


def fifo(path):
    os.mkfifo(path)
    return path


def plain(path, content):
    path.write_bytes(content)
    return path


def folder(path):
    path.mkdir()
    return path


def torn(path, part):
    content = archive(path, method=zipfile.ZIP_DEFLATED).read_bytes()
    return plain(path, content[: int(len(content) * part)])


def spoiled(path, method):
    """A byte inside the packed pixels changed."""
    content = bytearray(archive(path, method=method).read_bytes())
    content[content.index(b"train_x.npy") + 150] ^= 255
    return plain(path, bytes(content))


def twice(path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, **{"train_x.npy": npy(X[::-1])})
    return path


DAMAGED = {
    "not there": (lambda p: p, r"no file .*f.npz; npz:FILE needs the path of a NumPy"),
    "a folder": (folder, r"f.npz is a folder; npz:FILE needs the path of a NumPy .npz file"),
    "a pipe": (fifo, r"f.npz is no regular file \(a pipe or a device\); npz:FILE needs"),
    "0 bytes": (
        lambda p: plain(p, b""),
        r"f.npz is empty, a file of 0 bytes; write it with np.sav",
    ),
    "text": (lambda p: plain(p, b"hello"), r"f.npz is no NumPy .npz file, which is a zip archive"),
    "npy": (lambda p: plain(p, npy(X)), r"f.npz is a single array \(.npy\), and four are needed"),
    "pickle": (lambda p: plain(p, b"\x80\x04]\x94."), r"f.npz is no NumPy .npz file, which is a z"),
    "cut": (
        lambda p: torn(p, 0.6),
        r"f.npz is a zip archive that ends early; copy it again, or wr",
    ),
    "table cut": (
        lambda p: torn(p, 0.97),
        r"f.npz is a zip archive that ends early; copy it again",
    ),
    "table broken": (
        lambda p: patched(archive(p), b"PK\x01\x02", b"PK\x07\x07"),
        r"f.npz is a zip archive with a damaged table of contents; copy it again, or write",
    ),
    "no array": (
        lambda p: archive(p, train_x=b"hello"),
        r"train_x is no NumPy array; write it with",
    ),
    "empty member": (lambda p: archive(p, train_x=b"\x93"), r"train_x is no NumPy array; write"),
    "encrypted": (
        lambda p: flagged(archive(p), 6, 1),
        r"train_x is encrypted; write it with np.savez\(.*\) without a password",
    ),
    "compression": (
        lambda p: flagged(archive(p), 8, 97),
        r"train_x is compressed by a method \(number 97\) that Python cannot read; write it with",
    ),
    "checksum": (
        lambda p: spoiled(p, zipfile.ZIP_STORED),
        r"train_x is damaged: its bytes end ear",
    ),
    "deflate": (lambda p: spoiled(p, zipfile.ZIP_DEFLATED), r"train_x is damaged: its bytes end e"),
    "bzip2": (lambda p: spoiled(p, zipfile.ZIP_BZIP2), r"train_x is damaged: its bytes end early"),
    "lzma": (lambda p: spoiled(p, zipfile.ZIP_LZMA), r"train_x is damaged: its bytes end early"),
    "1e12 images": (
        lambda p: archive(p, train_x=with_header(header(shape="(1000000000000, 5, 4, 3)"), b"123")),
        r"train_x declares uint8\[1000000000000, 5, 4, 3\], but holds 3 bytes; it is damaged: copy",
    ),
    "1e30 images": (
        lambda p: archive(p, train_x=with_header(header(shape=f"({10**30}, 5, 4, 3)"), b"123")),
        r"train_x declares uint8\[10+, 5, 4, 3\], but holds 3 bytes",
    ),
    "too few declared": (
        lambda p: archive(p, train_x=npy(X).replace(b"(6, 5, 4, 3)", b"(5, 5, 4, 3)")),
        r"train_x declares uint8\[5, 5, 4, 3\], but holds 360 bytes; it is damaged",
    ),
    "negative shape": (
        lambda p: archive(p, train_x=with_header(header(shape="(-6, -5, 4, 3)"), bytes(360))),
        r"train_x declares uint8\[-6, -5, 4, 3\], but holds 360 bytes",
    ),
    "open header": (
        lambda p: archive(p, train_x=with_header("{'descr': '|u1', 'shape': (6, 5", bytes(360))),
        r"the header of train_x is damaged; copy the file again, or write it with np.savez",
    ),
    "header beyond the end": (
        lambda p: archive(p, train_x=b"\x93NUMPY\x01\x00\xff\xff{'descr'"),
        r"the header of train_x is damaged",
    ),
    "header of 4 GiB": (
        lambda p: archive(p, train_x=b"\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'"),
        r"the header of train_x is damaged",
    ),
    "header of 20,000": (
        lambda p: archive(p, train_x=with_header(header() + " " * 20_000, bytes(360))),
        r"the header of train_x is damaged",
    ),
    "nested header": (
        lambda p: archive(p, train_x=with_header("(" * 9000 + ")" * 9000)),
        r"the header of train_x is damaged",
    ),
    "another version": (
        lambda p: archive(p, train_x=b"\x93NUMPY\x09\x00" + bytes(400)),
        r"the header of train_x is damaged",
    ),
    "an unknown dtype": (
        lambda p: archive(p, train_x=with_header(header(descr="'|z9'"), bytes(360))),
        r"the header of train_x is damaged",
    ),
    "a list for a shape": (
        lambda p: archive(p, train_x=with_header(header(shape="[6, 5]"), bytes(360))),
        r"the header of train_x is damaged",
    ),
    "objects": (
        lambda p: archive(p, train_y=npy(np.array([{}] * 6))),
        r"train_y holds Python objects, which are not loaded; save a plain array",
    ),
    "records": (
        lambda p: archive(p, train_y=npy(np.zeros(6, [("a", "i4"), ("b", "f4")]))),
        r"train_y is an array of \[\('a', '<i4'\), \('b', '<f4'\)\]; save a plain array of numbers",
    ),
    "no width": (
        lambda p: archive(p, train_y=with_header(header("'<U0'", "(1000000000000,)"))),
        r"train_y is an array of <U0; save a plain array of numbers",
    ),
    "text labels": (
        lambda p: archive(p, train_y=npy(Y.astype(str))),
        r"train_y is <U21\[6\]; labels must be integers \[n\]",
    ),
    "0 pixels": (
        lambda p: archive(p, train_x=npy(X[:, :0])),
        r"train_x is uint8\[6, 0, 4, 3\], examples of 0 numbers; give at least one in each",
    ),
    "0 features": (
        lambda p: archive(p, train_x=npy(np.zeros((6, 0), np.float32))),
        r"train_x is float32\[6, 0\], examples of 0 numbers",
    ),
    "a number": (
        lambda p: archive(p, train_y=npy(3)),
        r"train_y is empty, int64\[\]; give at least",
    ),
    "twice": (twice, r"holds the name 'train_x' 2 times; write it with np.savez"),
    "outside": (
        lambda p: archive(p, **{"../train_x.npy": npy(X)}),
        r"holds the name '../train_x' which points outside; write it with np.savez",
    ),
    "two sets": (
        lambda p: archive(
            p,
            **{
                f"{a}_{b}.npy": npy(ARRAYS[f"{b}_{a}"])
                for a in ("x", "y")
                for b in ("train", "test")
            },
        ),
        r"holds both train_x, ... and x_train, ...; save one of them",
    ),
    "no pair": (
        lambda p: plain(p, b"PK\x05\x06" + bytes(18)),
        r"must hold the arrays train_x, train_y, test_x and test_y .*; it holds nothing: write it",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_each_damage_has_its_sentence(tmp_path, case):
    make, sentence = DAMAGED[case]
    file = make(tmp_path / "f.npz")
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=sentence) as caught:
        load(f"npz:{file}")
    said = str(caught.value)
    assert "allow_pickle" not in said
    assert "\n" not in said
    assert "f.npz" in said
    assert time.perf_counter() - start < 5
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**19  # KiB


def test_a_table_that_declares_more_than_the_memory(tmp_path, monkeypatch):
    """Header and table agree on 3 GB, of which the file holds nothing."""
    text = header(shape="(50000000, 5, 4, 3)")
    file = archive(tmp_path / "f.npz", train_x=with_header(text, b"123"))
    declares(file, 10 + len(text) + 3_000_000_000)
    monkeypatch.setattr("cls_jax.core.host_memory.memory_bytes", lambda: 2**31)
    with pytest.raises(InputError, match=r"f.npz, unpacked, needs 2.8 GiB of memory, but this ma"):
        load(f"npz:{file}")


def test_what_cannot_be_opened(tmp_path):
    for name in (
        f"{tmp_path}/{'a' * 300}.npz",
        f"{tmp_path}/a\0b.npz",
        "~nobody-of-this-name/f.npz",
    ):
        with pytest.raises(
            InputError, match=r"cannot be opened \(.*\); npz:FILE needs a .npz file"
        ):
            load(f"npz:{name}")
    loop = tmp_path / "loop.npz"
    loop.symlink_to(loop)
    with pytest.raises(InputError, match=r"cannot be opened \(Too many levels"):
        load(f"npz:{loop}")
    with pytest.raises(InputError, match=r"is no regular file \(a pipe or a device\)"):
        load(f"npz:{os.devnull}")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_x": np.asfortranarray(X), "test_x": np.asfortranarray(X)},
        {"train_x": X.astype(">i4"), "test_x": X.astype(">f8"), "train_y": Y.astype(">i2")},
        {"train_x": X.astype(int), "train_y": Y[:, None].astype(">u8")},
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_is_exact_is_converted(tmp_path, changes, save):
    save(tmp_path / "f.npz", **{**ARRAYS, **changes})
    source = load(f"npz:{tmp_path}/f.npz")
    for x, y in (source.train, source.test):
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(y, Y)
        assert (x.dtype, y.dtype) == (np.uint8, np.int32)


def test_vectors_of_the_other_byte_order(tmp_path):
    x = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    np.savez(tmp_path / "f.npz", **{**ARRAYS, "train_x": x.astype(">f4"), "test_x": x})
    source = load(f"npz:{tmp_path}/f.npz")
    np.testing.assert_array_equal(source.train.x, x)
    assert source.train.x.dtype == np.float32


def test_a_header_of_the_second_version_and_arrays_that_are_not_asked_for(tmp_path):
    file = archive(tmp_path / "f.npz", train_x=npy(X, (2, 0)), **{"val_x.npy": b"anything"})
    np.testing.assert_array_equal(load(f"npz:{file}").train.x, X)


def test_a_size_beyond_memory_is_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "f.npz", **ARRAYS)
    monkeypatch.setattr("cls_jax.core.host_memory.memory_bytes", lambda: 2**29)
    sentence = r"size=4096, to which the 12 images of .*f.npz are resized, needs 1.1 GiB of memory"
    with pytest.raises(InputError, match=sentence):
        load(f"npz:{tmp_path}/f.npz", size=4096)
    assert load(f"npz:{tmp_path}/f.npz", size=64).train.x.shape == (6, 64, 64, 3)
