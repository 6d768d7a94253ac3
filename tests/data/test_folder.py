"""Folders of pictures: every kind of file is read rightly or refused; what is left out is said."""

import os
import re
import runpy
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from cls_jax.app.build import StreamConfig
from cls_jax.core.errors import InputError
from cls_jax.data.load import describe, load
from cls_jax.data.pictures import only_pixels, read_picture
from tests.support.tfds_sets import odd_builder, stock

GREY = np.add.outer(np.arange(8) * 10, np.arange(8) * 20).astype(np.uint8)
RGB = np.stack([GREY, GREY // 2, 255 - GREY], -1)
DRAWN = np.where(GREY > 70, 255, 0).astype(np.uint8)


def paint(file, level=5, **how):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (level, level, level)).save(file, **how)


def pets(root, *, names=("cat", "dog"), count=3, splits=("",)):
    """A folder of ``count`` pictures a class, of levels 0, 10, 20, ..."""
    for split in splits:
        for name in names:
            for i in range(count):
                paint(root / split / name / f"{i}.png", 10 * i)
    return root


def read(file):
    with only_pixels():
        return read_picture(str(file), 8)[0]


def refused(root, *parts):
    with pytest.raises(InputError) as caught:
        load(f"folder:{root}", size=4)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence
    return sentence


# --- kinds of pixels


def white_is_zero(file):
    Image.fromarray((255 - GREY).astype(np.uint16) * 257).save(file)
    content = bytearray(file.read_bytes())
    at = content.index(struct.pack("<HHI", 262, 3, 1))  # the tag, one number
    content[at + 8 : at + 10] = b"\0\0"
    file.write_bytes(content)


def twelve_bits(file):
    """A 12-bit TIFF, packed by hand: two numbers in three bytes."""
    pairs = (GREY.astype(int) * 4095 // 255).reshape(-1, 2)
    packed = bytes(
        part for a, b in pairs for part in (a >> 4, (a & 15) << 4 | b >> 8, b & 255)
    )  # fmt: skip
    tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8)]
    tags += [(279, len(packed))]
    head = struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed
    body = b"".join(struct.pack("<HHII", tag, 4 if tag > 270 else 3, 1, v) for tag, v in tags)
    file.write_bytes(head + struct.pack("<H", len(tags)) + body + bytes(4))


KINDS = {
    "i16.png": lambda f: Image.fromarray(GREY.astype(np.uint16) * 257).save(f),
    "i16.tif": lambda f: Image.fromarray(GREY.astype(np.uint16) * 257).save(f),
    "i16lzw.tif": lambda f: Image.fromarray(GREY.astype(np.uint16) * 257).save(
        f, compression="tiff_lzw"
    ),
    "i16b.tif": lambda f: Image.fromarray(GREY.astype(">u2") * 257).save(f),
    "i16.pgm": lambda f: Image.fromarray(GREY.astype(np.uint16) * 257).save(f),
    "i12.tif": twelve_bits,
    "white_is_zero.tif": white_is_zero,
    "f32.tif": lambda f: Image.fromarray((GREY / 255).astype(np.float32)).save(f),
    "f32.pfm": lambda f: Image.fromarray((GREY / 255).astype(np.float32)).save(f),
    "one_bit.png": lambda f: Image.fromarray(GREY > 70).save(f),
    "grey.png": lambda f: Image.fromarray(GREY).save(f),
    "palette.png": lambda f: Image.fromarray(GREY).convert("P").save(f),
    "cmyk.tif": lambda f: Image.fromarray(RGB).convert("CMYK").save(f),
    "cmyk.jpg": lambda f: Image.fromarray(RGB).convert("CMYK").save(f, quality=100),
    "ycbcr.tif": lambda f: Image.fromarray(RGB).convert("YCbCr").save(f),
    "lab.tif": lambda f: Image.fromarray(np.stack([GREY] * 3, -1)).convert("LAB").save(f),
    "rgb.webp": lambda f: Image.fromarray(RGB).save(f, lossless=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_picture_is_the_same_picture(kind, tmp_path):
    KINDS[kind](tmp_path / kind)
    want = RGB if kind[0] in "cyr" else np.stack([DRAWN if "one" in kind else GREY] * 3, -1)
    difference = np.abs(read(tmp_path / kind).astype(int) - want).max()
    assert difference <= {"c": 2, "y": 3, "l": 1}.get(kind[0], 1 if "12" in kind else 0)


REFUSED = {
    "i32.tif": (Image.fromarray(GREY.astype(np.int32) * 257), {}, "signed or 32-bit integers"),
    "f255.tif": (Image.fromarray(GREY.astype(np.float32)), {}, "from 0 to 210, not 0 to 1"),
    "nan.tif": (Image.fromarray(np.full((8, 8), np.nan, np.float32)), {}, "nan to nan, not 0"),
    "i16.png": (Image.fromarray(GREY.astype(np.uint16)), {"transparency": 9}, "kind I;16"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_without_a_known_white_is_refused_by_name(kind, tmp_path):
    picture, how, why = REFUSED[kind]
    pets(tmp_path)
    picture.save(tmp_path / "cat" / kind, **how)
    refused(tmp_path, f"cat/{kind} cannot be decoded as a picture (", why, "8-bit PNG")


def test_transparency_lies_over_white(tmp_path):
    half = np.full((8, 8), 128, np.uint8)
    Image.fromarray(np.dstack([RGB, half])).save(tmp_path / "half.png")
    np.testing.assert_array_equal(
        read(tmp_path / "half.png"), np.round(RGB * (128 / 255) + 255 * (127 / 255))
    )
    seen = np.dstack([np.full((8, 8), 7, np.uint8), DRAWN])
    Image.fromarray(seen).save(tmp_path / "la.png")
    picture = Image.fromarray((DRAWN > 0).astype(np.uint8)).convert("P")
    picture.putpalette([200, 0, 0, 7, 7, 7])
    picture.save(tmp_path / "p.png", transparency=0)
    picture.save(tmp_path / "p.gif", transparency=0)
    colours = np.where(DRAWN[..., None] > 0, [7, 7, 7], [0, 0, 9]).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "rgb.png", transparency=(0, 0, 9))
    for name in ("la.png", "p.png", "p.gif", "rgb.png"):
        want = np.where(DRAWN > 0, 7, 255)
        np.testing.assert_array_equal(read(tmp_path / name), np.stack([want] * 3, -1), name)


TURNED = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_the_orientation_of_exif_is_applied(orientation, tmp_path):
    picture = Image.fromarray(np.ascontiguousarray(TURNED[orientation](RGB)))
    exif = Image.Exif()
    exif[0x112] = orientation
    picture.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    picture.save(tmp_path / "a.png", exif=exif)
    picture.save(tmp_path / "a.tif", tiffinfo={274: orientation})
    for name in ("a.jpg", "a.png", "a.tif"):
        difference = np.abs(read(tmp_path / name).astype(int) - RGB).max()
        assert difference <= (2 if name == "a.jpg" else 0), name


def test_of_several_frames_the_first_is_read_and_said(tmp_path, capsys):
    pets(tmp_path / "pets")
    more = {"save_all": True, "append_images": [Image.new("RGB", (6, 6), "white")]}
    for name in ("5.gif", "6.tif", "7.webp"):
        paint(tmp_path / "pets" / "dog" / name, 200, **more)
    source = load(f"folder:{tmp_path}/pets", size=4)
    assert source.train.x[-2:, 0, 0, 0].tolist() == [200, 200]
    text = capsys.readouterr().err.splitlines()[-1]
    assert "3 of 9 pictures hold several frames or pages, e.g. " in text
    assert text.endswith("dog/5.gif; the first is read")


# --- strangers' files


def postscript(file):
    Image.fromarray(RGB).save(file, "EPS")


def png(width, height):
    """A PNG whose header says so, and that ends too early."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.fixture
def ghost(monkeypatch):
    """The calls of Ghostscript."""
    calls = []

    def start(*args, **options):
        calls.append(args)
        return Image.new("RGB", (8, 8)).im

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    return calls


def test_only_formats_of_pixels_are_opened(tmp_path, ghost):
    pets(tmp_path)
    postscript(tmp_path / "cat" / "e.png")
    refused(tmp_path, "cat/e.png cannot be decoded as a picture (it is damaged, or none of AVIF")
    assert ghost == []
    before = Image.ID[:]
    with only_pixels():
        assert "EPS" not in Image.ID
    assert before == Image.ID


def test_only_formats_of_pixels_are_opened_in_a_prepared_set(tmp_path, ghost, monkeypatch):
    postscript(tmp_path / "e.png")
    example = {"image": str(tmp_path / "e.png"), "label": 0}
    stock(monkeypatch, odd_builder([example], lambda f: {
        "image": f.Image(shape=(None, None, 3)), "label": f.ClassLabel(num_classes=3)
    }))  # fmt: skip
    with pytest.raises(InputError, match=r"odd_set.* begins with .*; only PNG, JPEG, GIF and BMP"):
        load("odd_set", tmp_path / "sets")
    assert ghost == []


@pytest.mark.parametrize("shape", [(10_000, 10_000), (100_000, 100_000)])
def test_a_picture_too_large_is_one_sentence(shape, tmp_path):
    pets(tmp_path)
    (tmp_path / "cat" / "big.png").write_bytes(png(*shape))
    refused(tmp_path, "cat/big.png cannot", f"{shape[0] * shape[1]} pixels", "make it smaller")


@pytest.mark.parametrize("content", [png(0, 5), b"P5 0 0 255\n", b"", b"hello"])
def test_a_picture_without_pixels_is_refused(content, tmp_path):
    pets(tmp_path)
    (tmp_path / "cat" / "a.png").write_bytes(content)
    refused(tmp_path, "cat/a.png cannot be decoded as a picture (")


# --- what is left out is said


def moved(file):
    (file.parent / "more").mkdir(exist_ok=True)
    file.rename(file.parent / "more" / file.name)


LEFT = {
    "4 without suffix": lambda f: f.rename(f.with_suffix("")),
    "4 .npy": lambda f: f.rename(f.with_suffix(".npy")),
    "4 .heic": lambda f: f.rename(f.with_suffix(".HEIC")),
    "4 .eps": lambda f: f.rename(f.with_suffix(".eps")),
    "4 hidden": lambda f: f.rename(f.with_name("." + f.name)),
    "4 in the sub-folder more/": moved,
}


@pytest.mark.parametrize("kind", LEFT)
def test_files_that_are_not_read_are_counted(kind, tmp_path, capsys):
    pets(tmp_path, count=6)
    for i in range(4):
        LEFT[kind](tmp_path / "cat" / f"{i}.png")
    for _ in range(2):  # with and without a cache
        source = load(f"folder:{tmp_path}", size=4)
        line = f"folder {tmp_path}: class cat: 4 files ({kind}) left out"
        assert line in capsys.readouterr().err.splitlines()
    assert (source.train.y == 0).sum() == (source.test.y == 0).sum() == 1


def test_of_many_classes_the_files_left_out_are_summed(tmp_path, capsys):
    pets(tmp_path, names=[f"c{i:02}" for i in range(12)], count=2)
    for folder in tmp_path.iterdir():
        for kind in ("a.txt", "b.csv"):
            (folder / kind).touch()
    load(f"folder:{tmp_path}", size=4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[7] == f"folder {tmp_path}: class c07: 2 files (1 .txt, 1 .csv) left out"
    assert lines[8] == f"folder {tmp_path}: 4 more classes: 8 files left out"


def test_pictures_and_folders_of_no_class_are_said(tmp_path, capsys):
    pets(tmp_path, splits=("train", "test"))
    paint(tmp_path / "extra" / "deep" / "a.png")
    paint(tmp_path / "loose.png")
    paint(tmp_path / "train" / "x.png")
    paint(tmp_path / ".old" / "a.png")
    load(f"folder:{tmp_path}", size=4)
    text = "\n".join(capsys.readouterr().err.splitlines()[:-1])
    for line in (
        "extra/ is left out (1 picture): it stands beside train/ and test/",
        "1 picture in no class folder left out, e.g. loose.png",
        "train/: 1 picture in no class folder left out, e.g. x.png",
        ".old/ is left out, with its pictures: it is hidden",
    ):
        assert f"folder {tmp_path}: {line}" in text
    assert text.count("\n") == 3


@pytest.mark.parametrize("place", ["runs", "runs/a", "runs/a/b"])
def test_results_of_runs_are_no_class(place, tmp_path, capsys):
    pets(tmp_path)
    want = describe(load(f"folder:{tmp_path}", size=4))
    paint(tmp_path / place / "accuracy_matrix.png")
    (tmp_path / place / "config.json").write_text('{"config": {}}')
    (tmp_path / place / "checkpoints").mkdir()
    assert describe(load(f"folder:{tmp_path}", size=4)) == want
    assert "runs/ is left out: it holds results of runs" in capsys.readouterr().err


# --- names and links


def test_a_name_that_is_no_text_is_refused(tmp_path):
    for name in (b"\xe9t\xe9", b"a\nb", b"\x1b[31m"):
        root = pets(tmp_path / "data")
        os.rename(root / "cat", os.fsencode(root) + b"/" + name)
        refused(root, "has a name that is not UTF-8 text, or holds control characters; rename it")
        os.rename(os.fsencode(root) + b"/" + name, root / "cat")
    os.rename(root, os.fsencode(tmp_path) + b"/\xe9")
    refused(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"), r"\udce9' has a name that is not UTF-8")


def test_names_that_are_text_are_read(tmp_path):
    names = ("$a^$", "[red]", "a b", "été 日本\u3000語", "%s {x}")
    root = pets(tmp_path / "a$^$b [x]", names=names)
    os.rename(root / "a b" / "0.png", os.fsencode(root) + b"/a b/\xe9.png")
    source = load(f"folder:{root}", size=4)
    assert sorted(source.label_names) == sorted(names)
    assert len(source.train.y) == 10
    describe(source)


def test_a_folder_that_cannot_be(tmp_path):
    pets(tmp_path)
    for path in ("x" * 300, "~nosuchuser/x", "a\0b", str(tmp_path / "cat" / "0.png")):
        refused(path, "no folder ", "; folder:DIR needs DIR/train/<class>/")


def fifo(place):
    os.mkfifo(place)


def device(place):
    place.symlink_to("/dev/zero")


def dead(place):
    place.symlink_to("/nowhere/x.png")


def loop(place):
    place.symlink_to(place)


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are POSIX's")
@pytest.mark.parametrize("make", [fifo, device, dead, loop])
def test_a_picture_that_leads_to_no_file_is_refused(make, tmp_path):
    pets(tmp_path)
    make(tmp_path / "cat" / "z.png")
    why = "is no file" if make in (fifo, device) else "is a link that leads nowhere (to "
    refused(tmp_path, f"{tmp_path}/cat/z.png {why}", "mend or remove it")


@pytest.mark.skipif(sys.platform == "win32", reason="links are POSIX's")
def test_class_folders_that_are_links(tmp_path):
    pets(tmp_path)
    (tmp_path / "far").symlink_to(pets(tmp_path / "cat" / ".away") / "dog")
    assert load(f"folder:{tmp_path}", size=4).label_names == ("cat", "dog", "far")
    for make in (dead, loop):
        make(tmp_path / "cow")
        refused(tmp_path, f"{tmp_path}/cow is a link that leads nowhere (to ", "mend or remove it")
        (tmp_path / "cow").unlink()
    (tmp_path / "cow").symlink_to("dog")
    refused(tmp_path, "cow and dog are one and the same folder (a link)")
    split = pets(tmp_path / "split", splits=("train",))
    (split / "test").symlink_to("train")
    refused(split, "train/cat and test/cat are one and the same folder")


def test_what_may_not_be_read_is_told(tmp_path, monkeypatch):
    pets(tmp_path)
    real, shut = {"scandir": os.scandir, "open": Image.open}, tmp_path / "cat"

    def refuse(name):
        def call(path, *args, **options):
            if Path(path) in (shut, shut / "1.png"):
                raise PermissionError(13, "Permission denied", str(path))
            return real[name](path, *args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", refuse("open"))
        refused(tmp_path, "cat/1.png cannot be decoded as a picture (Permission denied); mend its")
    monkeypatch.setattr(os, "scandir", refuse("scandir"))
    refused(tmp_path, f"{shut} cannot be read (Permission denied)", "permissions")


# --- layouts


def test_a_class_may_be_called_train(tmp_path, capsys):
    pets(tmp_path, names=("bus", "car", "train", "test"))
    assert load(f"folder:{tmp_path}", size=4).label_names == ("bus", "car", "test", "train")
    assert "train/ and test/ read as a class each" in capsys.readouterr().err
    paint(tmp_path / "train" / "steam" / "a.png")
    load(f"folder:{tmp_path}", size=4)
    assert "class train: 1 file (1 in the sub-folder steam/) left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names", [("Train", "Test"), ("TRAIN", "test"), ("training", "testing"), ("train", "val"),
              ("train", "valid"), ("Training", "Validation")]
)  # fmt: skip
def test_splits_by_other_names(names, tmp_path, capsys):
    pets(tmp_path, splits=names)
    source = load(f"folder:{tmp_path}", size=4)
    assert source.label_names == ("cat", "dog")
    assert len(source.train.y) == len(source.test.y) == 6
    said = f"{names[1]}/ is read as the test split" in capsys.readouterr().err
    assert said == ("est" not in names[1])


def test_of_three_splits_val_is_left_out_and_said(tmp_path, capsys):
    pets(tmp_path, splits=("train", "test", "val"))
    paint(tmp_path / "test" / "cat" / "3.png", 99)
    source = load(f"folder:{tmp_path}", size=4)
    assert 99 in source.test.x
    assert "val/ is left out (6 pictures): test/ is the test split" in capsys.readouterr().err


def test_splits_that_do_not_fit(tmp_path):
    only = pets(tmp_path / "only", splits=("val",))
    refused(only, "has val/ alone; give both train/ and test/ (or val/), or give folder:")
    assert load(f"folder:{only}/val", size=4).num_classes == 2  # the remedy works
    both = pets(tmp_path / "both", splits=("train", "Train", "test"))
    refused(both, "has Train/ and train/, which mean the same; rename or remove one")
    for name in ("train", "test"):
        paint(tmp_path / "flat" / name / "a.png")
    refused(tmp_path / "flat", "train/ and test/ hold no class folders", "train/<class>/")
    paint(pets(tmp_path / "half", splits=("train",)) / "test" / "a.png")
    refused(tmp_path / "half", "test has 0 class folders", "1 picture in no class folder")


def test_a_folder_too_high_says_where_the_classes_are(tmp_path):
    pets(tmp_path / "unpacked")
    sentence = refused(
        tmp_path, "unpacked holds no picture itself but 6 files (3 in the sub-folder"
    )
    assert f"give folder:{tmp_path}/unpacked if" in sentence
    assert load(f"folder:{tmp_path}/unpacked", size=4).num_classes == 2


def tiny_imagenet(root):
    for name in ("n01", "n02"):
        for i in range(3):
            paint(root / "train" / name / "images" / f"{name}_{i}.JPEG", i)
        (root / "train" / name / f"{name}_boxes.txt").touch()
    for i in range(4):
        paint(root / "val" / "images" / f"val_{i}.JPEG", 20 * i)
        paint(root / "test" / "images" / f"test_{i}.JPEG")
    lines = (f"val_{i}.JPEG\tn0{1 + i % 2}\t0\t0\t9\t9\n" for i in range(4))
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n01\nn02\n")
    return root


def test_tiny_imagenet_as_it_is_distributed(tmp_path, capsys):
    root = tiny_imagenet(tmp_path)
    source = load(f"folder:{root}", size=4)
    assert source.label_names == ("n01", "n02")
    assert source.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.test.y.tolist() == [0, 0, 1, 1]
    assert source.test.x[:, 0, 0, 0].tolist() == [0, 40, 20, 60]
    err = capsys.readouterr().err
    assert "val/ is read as the test split" in err
    assert "test/ is left out (4 pictures): it has no class folders" in err
    table = root / "val" / "val_annotations.txt"
    text = table.read_text()
    table.write_text(text.translate({ord("1"): "2", ord("2"): "1"}))
    changed = load(f"folder:{root}", size=4)  # the table changed and no picture
    assert changed.test.x[:, 0, 0, 0].tolist() != source.test.x[:, 0, 0, 0].tolist()
    for content, why in (("val_9.JPEG\tn01", "names 1 picture"), ("val_1.JPEG n01", "a tab and")):
        table.write_text(content)
        refused(root, str(table), why)


def test_the_help_says_the_default_size_truly(tmp_path):
    line = re.search(r"image_size: ([^;]*; if not given.*?\.)", StreamConfig.__doc__, re.DOTALL)[1]
    assert "if not given 32 for digits and folder:DIR, else as stored." in " ".join(line.split())
    for name in ("digits", f"folder:{pets(tmp_path)}"):
        assert load(name).train.x.shape[1:] == (32, 32, 3)


def test_a_script_says_it_before_anything_is_written(tmp_path, monkeypatch, capsys):
    root = pets(tmp_path / "data")
    os.rename(root / "cat", os.fsencode(root) + b"/\xe9t\xe9")
    script = Path(__file__).parents[2] / "experiments" / "compare.py"
    flags = f"--methods sgd --net mlp --data folder:{root} --workdir {tmp_path}/out"
    monkeypatch.setattr(sys, "argv", [str(script), *flags.split()])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert caught.value.code == 2
    assert "has a name that is not UTF-8" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
