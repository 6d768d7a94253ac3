"""Data sets of the user's that cannot be learned from: damaged, odd, dangerous."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.ask import Case

Change = Callable[[dict[str, np.ndarray]], object]
NPZ = ("--data", "npz:d.npz", "--tasks", "2", "--batch-size", "4")
FOLDER = ("--data", "folder:d", "--tasks", "2", "--batch-size", "2", "--image-size", "8")
MLP = ("--net", "mlp", "--hidden", "8", "--methods", "sgd")


def arrays() -> dict[str, np.ndarray]:
    """Four classes of eight 8x8 pictures, both splits."""
    y = np.repeat(np.arange(4), 8)
    x = (np.arange(32 * 64).reshape(32, 8, 8) % 256).astype(np.uint8)
    return {"train_x": x, "train_y": y, "test_x": x[::2], "test_y": y[::2]}


def npz(change: Change) -> Callable[[Path], None]:
    """Writes d.npz, its arrays changed."""

    def made(folder: Path) -> None:
        given = arrays()
        change(given)
        np.savez(folder / "d.npz", **given)

    return made


def put(**new: object) -> Callable[[Path], None]:
    """Arrays replaced; a function is applied to the array of its name."""

    def change(given: dict[str, np.ndarray]) -> None:
        for name, value in new.items():
            given[name] = value(given[name]) if callable(value) else value

    return npz(change)


def raw(content: bytes) -> Callable[[Path], None]:
    """d.npz of these bytes."""
    return lambda folder: (folder / "d.npz").write_bytes(content)


def members(**of: bytes) -> Callable[[Path], None]:
    """A zip whose members are these bytes; the others are sound."""

    def made(folder: Path) -> None:
        with zipfile.ZipFile(folder / "d.npz", "w") as file:
            for name, array in arrays().items():
                buffer = io.BytesIO()
                np.save(buffer, array)
                file.writestr(f"{name}.npy", of.get(name, buffer.getvalue()))

    return made


def header(words: str, content: bytes = b"") -> bytes:
    """A .npy file with these words as its header."""
    text = (words + " " * (118 - len(words) % 64) + "\n").encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def cut(folder: Path) -> None:
    """A sound archive without its second half."""
    np.savez(folder / "d.npz", **arrays())
    whole = (folder / "d.npz").read_bytes()
    (folder / "d.npz").write_bytes(whole[: len(whole) // 2])


def flagged(offset: int, value: int) -> Callable[[Path], None]:
    """A sound archive with one number of every member's two headers changed."""

    def made(folder: Path) -> None:
        np.savez(folder / "d.npz", **arrays())
        whole = bytearray((folder / "d.npz").read_bytes())
        for mark, start in ((b"PK\x03\x04", offset), (b"PK\x01\x02", offset + 2)):
            at = whole.find(mark)
            while at >= 0:
                whole[at + start : at + start + 2] = struct.pack("<H", value)
                at = whole.find(mark, at + 4)
        (folder / "d.npz").write_bytes(bytes(whole))

    return made


OBJECTS = np.array([{"a": 1}, "b"] * 16, object)
WORDS = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }"
NPZ_CASES = {
    "npz: not there": (lambda folder: None, ("d.npz",)),
    "npz: a folder": (lambda folder: (folder / "d.npz").mkdir(), ("d.npz",)),
    "npz: empty": (raw(b""), ("d.npz",)),
    "npz: words": (raw(b"not an archive at all"), ("d.npz",)),
    "npz: a single array": (raw(header(WORDS % "4,", b"\0" * 4)), ("d.npz", "np.savez")),
    "npz: a pickle": (raw(b"\x80\x04]\x94."), ("d.npz",)),
    "npz: cut in half": (cut, ("d.npz",)),
    "npz: encrypted": (flagged(6, 1), ("d.npz", "encrypted")),
    "npz: another compression": (flagged(8, 97), ("d.npz", "compress")),
    "npz: a pipe": (lambda folder: os.mkfifo(folder / "d.npz"), ("d.npz",)),
    "npz: no arrays": (lambda folder: np.savez(folder / "d.npz"), ("d.npz", "train_x")),
    "npz: one array": (lambda f: np.savez(f / "d.npz", train_x=np.zeros(3)), ("train_x",)),
    "npz: objects": (put(train_x=OBJECTS), ("train_x",)),
    "npz: labels of objects": (put(train_y=OBJECTS), ("train_y",)),
    "npz: a trillion pictures": (
        members(train_x=header(WORDS % "1000000000000, 8, 8")),
        ("train_x",),
    ),
    "npz: a nonillion pictures": (members(train_x=header(WORDS % f"{10**30}, 8, 8")), ("train_x",)),
    "npz: -1 pictures": (members(train_x=header(WORDS % "-1, 8, 8")), ("train_x",)),
    "npz: an open header": (members(train_x=header("{'descr': '|u1', 'shape': (4,")), ("train_x",)),
    "npz: a header of code": (members(train_x=header("__import__('os').getcwd()")), ("train_x",)),
    "npz: a header 9,000 deep": (members(train_x=header("(" * 9000)), ("train_x",)),
    "npz: a dtype that is none": (
        members(train_x=header("{'descr': 'xyz', 'fortran_order': False, 'shape': (4,), }")),
        ("train_x",),
    ),
    "npz: half of its pixels": (members(train_x=header(WORDS % "32, 8, 8", b"\0")), ("train_x",)),
    "npz: no example": (put(train_x=lambda x: x[:0], train_y=lambda y: y[:0]), ("train_x",)),
    "npz: no pixel": (put(train_x=lambda x: x[:, :0], test_x=lambda x: x[:, :0]), ("train_x",)),
    "npz: no feature": (
        put(train_x=np.zeros((32, 0), np.float32), test_x=np.zeros((16, 0), np.float32)),
        ("train_x",),
    ),
    "npz: a scalar": (put(train_x=np.uint8(3)), ("train_x",)),
    "npz: five axes": (put(train_x=np.zeros((32, 8, 8, 3, 1), np.uint8)), ("train_x",)),
    "npz: two channels": (put(train_x=np.zeros((32, 8, 8, 2), np.uint8)), ("train_x",)),
    "npz: pictures of floats": (put(train_x=lambda x: x / 255), ("train_x",)),
    "npz: pictures of text": (put(train_x=np.array(["a"] * 32)), ("train_x",)),
    "npz: complex": (put(train_x=np.zeros((32, 4), complex)), ("train_x",)),
    "npz: structured": (put(train_x=np.zeros(32, [("a", "u1"), ("b", "f4")])), ("train_x",)),
    "npz: dates": (put(train_x=np.zeros(32, "M8[s]")), ("train_x",)),
    "npz: vectors with NaN": (
        put(train_x=np.full((32, 4), np.nan), test_x=np.zeros((16, 4))),
        ("train_x", "NaN"),
    ),
    "npz: vectors with infinity": (
        put(train_x=np.full((32, 4), np.inf), test_x=np.zeros((16, 4))),
        ("train_x",),
    ),
    "npz: sizes differ": (put(test_x=lambda x: x[:, :4]), ("test_x",)),
    "npz: labels too few": (put(train_y=lambda y: y[:-1]), ("train_x", "32", "train_y", "31")),
    "npz: labels too many": (put(train_y=lambda y: np.r_[y, 0]), ("train_y", "33")),
    "npz: labels of floats": (put(train_y=lambda y: y.astype(float)), ("train_y", "float64")),
    "npz: labels of text": (put(train_y=lambda y: y.astype(str)), ("train_y",)),
    "npz: a label of -1": (put(train_y=lambda y: y - 1), ("train_y", "-1")),
    "npz: one-hot labels": (put(train_y=lambda y: np.eye(4, dtype=int)[y]), ("train_y",)),
    "npz: a label of a trillion": (put(train_y=lambda y: y * 10**12), ("train_y",)),
    "npz: a label of 2 billion": (put(train_y=lambda y: y * (2**31 - 2) // 3), ("labels",)),
    "npz: a class that is missing": (put(train_y=lambda y: y * 2), ("class", "1")),
    "npz: a class not tested": (put(test_y=lambda y: y.clip(0, 2)), ("test_y", "3")),
    "npz: labels from 1": (
        put(train_y=lambda y: y + 1, test_y=lambda y: y + 1),
        ("class 0",),
    ),
    "npz: one class": (put(train_y=lambda y: y * 0, test_y=lambda y: y * 0), ("class",)),
}


def pictures(folder: Path, *, classes: int = 4, each: int = 5, split: str = "") -> Path:
    """d/[split/]c0..c3/0..4.png."""
    for c in range(classes):
        inside = folder / "d" / split / f"c{c}"
        inside.mkdir(parents=True)
        for i in range(each):
            Image.new("L", (8, 8), 60 * c + i).save(inside / f"{i}.png")
    return folder / "d"


def one(content: bytes, name: str = "1.png") -> Callable[[Path], None]:
    """Sound pictures but for one file."""

    def made(folder: Path) -> None:
        (pictures(folder) / "c1" / name).write_bytes(content)

    return made


def encoded(kind: str) -> bytes:
    """A picture as bytes of a format."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    return buffer.getvalue()


def linked(target: str) -> Callable[[Path], None]:
    """A picture that is a link."""

    def made(folder: Path) -> None:
        path = pictures(folder) / "c1" / "1.png"
        path.unlink()
        path.symlink_to(target)

    return made


def piped(folder: Path) -> None:
    """A picture that is a pipe: reading it would wait for ever."""
    path = pictures(folder) / "c1" / "1.png"
    path.unlink()
    os.mkfifo(path)


def half_split(folder: Path) -> None:
    """train/ alone."""
    pictures(folder, split="train")


def unlike(folder: Path) -> None:
    """A class in train/ that test/ lacks."""
    pictures(folder, split="train")
    pictures(folder, classes=3, split="test")


def bare(folder: Path) -> None:
    """Pictures without class folders."""
    (folder / "d").mkdir()
    for i in range(4):
        Image.new("L", (8, 8), i).save(folder / "d" / f"{i}.png")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n%%EOF\n"
BOMB = (
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", 60000, 60000)
    + b"\x08\x00\x00\x00\x00\x00\x00\x00\x00"
)  # fmt: skip
FOLDER_CASES = {
    "folder: not there": (lambda folder: None, ("d",)),
    "folder: a file": (lambda folder: (folder / "d").write_text("x"), ("d",)),
    "folder: empty": (lambda folder: (folder / "d").mkdir(), ("d",)),
    "folder: one class": (lambda folder: pictures(folder, classes=1), ("class",)),
    "folder: a class of one picture": (lambda folder: pictures(folder, each=1), ("two",)),
    "folder: pictures without classes": (bare, ("d",)),
    "folder: train alone": (half_split, ("train", "test")),
    "folder: other classes": (unlike, ("c3",)),
    "folder: not a picture": (one(b"not a picture"), ("1.png",)),
    "folder: an empty picture": (one(b""), ("1.png",)),
    "folder: half a picture": (one(encoded("BMP")[:100]), ("1.png",)),
    "folder: PostScript": (one(POSTSCRIPT), ("1.png",)),
    "folder: a PDF": (one(encoded("PDF")), ("1.png",)),
    "folder: a picture of 3.6 gigapixels": (one(BOMB), ("1.png",)),
    "folder: a link to itself": (linked("1.png"), ("1.png",)),
    "folder: a pipe": (piped, ("1.png",)),
    "folder: a link to a device": (linked("/dev/zero"), ("1.png",)),
}


def tfds(name: str, content: bytes) -> Callable[[Path], None]:
    """sets/mine/1.0.0 with one damaged file of words."""

    def made(folder: Path) -> None:
        inside = folder / "sets" / "mine" / "1.0.0"
        inside.mkdir(parents=True)
        (inside / "dataset_info.json").write_bytes(
            b'{"name": "mine", "version": "1.0.0", "fileFormat": "array_record", "splits": []}'
        )
        (inside / "features.json").write_bytes(
            b'{"pythonClassName": "tensorflow_datasets.core.features.FeaturesDict",'
            b' "featuresDict": {"features": {}}}'
        )
        (inside / name).write_bytes(content)

    return made


DEEP = b'{"a":' * 100_000
FOREIGN = (
    b'{"pythonClassName": "tensorflow_datasets.core.features.FeaturesDict", "featuresDict":'
    b' {"features": {"image": {"pythonClassName": "subprocess.Popen"}}}}'
)
TFDS_CASES = {
    "tfds: no JSON": (tfds("dataset_info.json", b"{"), ("mine",)),
    "tfds: JSON of a list": (tfds("dataset_info.json", b"[]"), ("mine",)),
    "tfds: JSON 100,000 deep": (tfds("dataset_info.json", DEEP), ("mine",)),
    "tfds: no splits": (tfds("more.txt", b""), ("mine",)),
    "tfds: features 100,000 deep": (tfds("features.json", DEEP), ("mine",)),
    "tfds: features of no JSON": (tfds("features.json", b"\xff\xfe"), ("mine",)),
    "tfds: a class of someone else's": (
        tfds("features.json", FOREIGN),
        ("mine", "subprocess.Popen"),
    ),
    "tfds: no such version": (lambda f: tfds("a", b"")(f), ("mine", "sets")),
}


CASES = (
    [
        Case(name, "compare.py", (*MLP, *NPZ), expected, made)
        for name, (made, expected) in NPZ_CASES.items()
    ]
    + [
        Case(name, "compare.py", (*MLP, *FOLDER), expected, made)
        for name, (made, expected) in FOLDER_CASES.items()
    ]
    + [
        Case(
            name,
            "compare.py",
            (*MLP, "--data", "mine:9.9.9" if "version" in name else "mine", "--data-dir", "sets"),
            expected,
            made,
        )
        for name, (made, expected) in TFDS_CASES.items()
    ]
    + [
        Case(
            "data-dir: a file",
            "compare.py",
            (*MLP, "--data", "cifar10", "--data-dir", "sets"),
            ("sets",),
            lambda folder: (folder / "sets").write_text("x"),
        ),
        Case(
            "npz: vectors for a convolution",
            "dualnet_cifar.py",
            NPZ,
            ("d.npz", "vectors"),
            put(train_x=np.zeros((32, 4), np.float32), test_x=np.zeros((16, 4), np.float32)),
        ),
        Case(
            "npz: vectors of a size",
            "compare.py",
            (*MLP, *NPZ, "--image-size", "8"),
            ("size", "vectors"),
            put(train_x=np.zeros((32, 4), np.float32), test_x=np.zeros((16, 4), np.float32)),
        ),
        Case(
            "npz: too few classes for the tasks",
            "compare.py",
            (*MLP, "--data", "npz:d.npz", "--tasks", "3"),
            ("tasks=3",),
            npz(lambda given: None),
        ),
    ]
)
