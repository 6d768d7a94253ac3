"""The cache: decoded once, mapped afterwards, whole or absent whatever happens meanwhile."""

import errno
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cls_jax.core.errors import InputError
from cls_jax.data.cache import Store, cache_folder, cached
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.load import describe, load
from cls_jax.streams.class_il import class_il
from cls_jax.training.runner import run
from tests.conftest import TASKS, small_method

FILES = ["about.json", "test_x.npy", "test_y.npy", "train_x.npy", "train_y.npy"]
NUMBERS = np.random.default_rng(0).integers(0, 256, (130, 2, 2, 3), np.uint8)


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Where the user's caches lie for one test; nothing is made of it yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "cls_jax" / "data"


@pytest.fixture
def pets(tmp_path):
    """A folder of six pictures in two classes."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(3):
            colour = (10 * i, 50 * number, 0)
            Image.new("RGB", (8, 8), colour).save(tmp_path / "pets" / name / f"{i}.png")
    return tmp_path / "pets"


@pytest.fixture
def opened(monkeypatch):
    """The pictures that were opened, in their order."""
    names, real = [], Image.open

    def spy(file, **options):
        names.append(Path(file).name)
        return real(file, **options)

    monkeypatch.setattr(Image, "open", spy)
    return names


def only_cache(folder):
    (cache,) = folder.iterdir()
    return cache


def pixels(source):
    return [split.x.tobytes() + split.y.tobytes() for split in (source.train, source.test)]


# --- decoded once


def test_a_folder_is_decoded_once_and_mapped_from_then_on(pets, caches, opened, capsys):
    first = load(f"folder:{pets}", size=4)
    cache = only_cache(caches)
    assert capsys.readouterr().err == f"preparing pets: 6 pictures, once, into {cache}\n"
    assert len(opened) == 6
    again = load(f"folder:{pets}", size=4)
    assert len(opened) == 6
    assert capsys.readouterr() == ("", "")
    assert sorted(f.name for f in cache.iterdir()) == FILES
    for source in (first, again):
        assert (source.name, source.label_names) == ("pets", ("cat", "dog"))
        assert source.train.x[:, 0, 0, :2].tolist() == [[0, 0], [20, 0], [0, 50], [20, 50]]
        assert source.test.y.tolist() == [0, 1]
        for x, y in (source.train, source.test):
            assert isinstance(x, np.memmap)
            assert not x.flags.writeable
            assert type(y) is np.ndarray
            assert (x.dtype, y.dtype) == (np.uint8, np.int32)
    assert pixels(first) == pixels(again)
    assert describe(first) == describe(again)


def test_many_pictures_keep_their_order(tmp_path, caches, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    for name in ("a", "b"):
        (tmp_path / "many" / name).mkdir(parents=True)
        for i in range(250):
            Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / "many" / name / f"{i:03d}.png")
    source = load(f"folder:{tmp_path}/many", size=4)
    held = np.arange(250) % 5 == 1
    for split, out in ((source.train, False), (source.test, True)):
        want = np.tile(np.flatnonzero(held == out), 2)
        np.testing.assert_array_equal(split.x[:, 0, 0, 0], want)
        np.testing.assert_array_equal(split.y, np.repeat([0, 1], len(want) // 2))


def test_a_change_makes_another_cache(pets, caches, tmp_path, opened):
    load(f"folder:{pets}")
    load(f"folder:{pets}", size=9)
    assert len(opened) == 12
    Image.new("RGB", (8, 8), (200, 0, 0)).save(pets / "cat" / "0.png")
    os.utime(pets / "cat" / "0.png", (1, 1))
    assert load(f"folder:{pets}").train.x[0, 0, 0, 0] == 200
    (tmp_path / "other").mkdir()
    pets.rename(tmp_path / "other" / "pets")  # the same names, lengths and times elsewhere
    assert load(f"folder:{tmp_path}/other/pets").train.x[0, 0, 0, 0] == 200
    assert len(opened) == 24
    assert len(list(caches.iterdir())) == 4


@pytest.mark.parametrize("how", ["written over", "replaced"])
def test_other_content_of_the_same_length_and_time_is_noticed(pets, caches, how):
    file = pets / "cat" / "0.bmp"
    Image.new("RGB", (8, 8), (100, 0, 0)).save(file)
    assert load(f"folder:{pets}").train.x[0, 0, 0, 0] == 100
    before = file.stat()
    time.sleep(0.02)  # the clock of the file system ticks
    place = file if how == "written over" else pets / "new.bmp"
    Image.new("RGB", (8, 8), (200, 0, 0)).save(place)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    place.replace(file)
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert load(f"folder:{pets}").train.x[0, 0, 0, 0] == 200


def test_a_relative_path_is_the_same_folder(pets, caches, opened, monkeypatch):
    load(f"folder:{pets}")
    monkeypatch.chdir(pets)
    assert load("folder:.").name == "pets"
    assert len(opened) == 6


def test_where_the_cache_lies(tmp_path, monkeypatch):
    assert cache_folder(tmp_path) == tmp_path / ".cls_jax"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder(None) == tmp_path / ".cache" / "cls_jax" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder(None) == tmp_path / "caches" / "cls_jax" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # a user without a home
    with pytest.raises(OSError):
        cache_folder(None).mkdir(parents=True)


def test_a_folder_that_somebody_else_names_is_not_written(pets, caches, tmp_path):
    (tmp_path / "theirs").mkdir()
    source = load(f"folder:{pets}", tmp_path / "theirs", size=4, read_only=True)
    assert pixels(source) == pixels(load(f"folder:{pets}", size=4))
    with pytest.raises(InputError, match=r"is not prepared in .*, and nothing is written into"):
        load("cifar10", tmp_path / "theirs", read_only=True)
    assert list((tmp_path / "theirs").iterdir()) == []


def test_with_a_data_dir_the_cache_lies_there(pets, caches, tmp_path):
    load(f"folder:{pets}", tmp_path / "data")
    assert only_cache(tmp_path / "data" / ".cls_jax").name.startswith("folder-pets-")
    assert not caches.exists()


def test_a_run_on_maps_is_a_run_on_arrays(source, tmp_path):
    def make(store):
        splits = zip(("train", "test"), (source.train, source.test), strict=True)
        kept = (Split(store.rows(name, len(y), iter(x)), y) for name, (x, y) in splits)
        return Dataset(source.name, *kept, source.label_names)

    mapped = cached(tmp_path / "it", "digits6", make)
    assert isinstance(mapped.train.x, np.memmap)
    method = small_method("sgd")
    results = [run(method, class_il(data, tasks=TASKS, batch_size=4)) for data in (source, mapped)]
    np.testing.assert_array_equal(results[0].matrix, results[1].matrix)


# --- whole or absent


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_aborted_preparation_leaves_nothing(pets, caches, monkeypatch, error):
    def third(picture, mode):
        calls.append(mode)
        if len(calls) == 3:
            raise error
        return convert(picture, mode)

    calls, convert = [], Image.Image.convert
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "convert", third)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else InputError):
            load(f"folder:{pets}")
    assert not caches.exists()
    assert isinstance(load(f"folder:{pets}").train.x, np.memmap)


def test_what_a_killed_process_left_is_no_cache_and_goes_later(pets, caches, opened):
    code = (
        "import os, sys; from PIL import Image; from cls_jax.data.load import load\n"
        "real, left = Image.Image.convert, [3]\n"
        "def convert(picture, mode):\n"
        "    left[0] -= 1\n"
        "    return real(picture, mode) if left[0] else os._exit(9)\n"
        "Image.Image.convert = convert; load(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, f"folder:{pets}"], check=False)
    assert done.returncode == 9
    left = only_cache(caches)
    assert left.name.startswith(".")
    load(f"folder:{pets}")
    assert len(opened) == 6
    assert left.exists()  # it could be at work still
    for file in (left, *left.iterdir()):
        os.utime(file, (time.time() - 7200,) * 2)
    load(f"folder:{pets}", size=5)
    assert not left.exists()
    assert len(list(caches.iterdir())) == 2


def no_labels(cache):
    (cache / "train_y.npy").unlink()


def short_pixels(cache):
    os.truncate(cache / "train_x.npy", 200)


def short_labels(cache):
    os.truncate(cache / "test_y.npy", 130)


def other_labels(cache):
    np.save(cache / "test_y.npy", np.zeros(9, np.int32))


def pickled_labels(cache):
    np.save(cache / "test_y.npy", np.array([{}, {}]))


def torn_names(cache):
    (cache / "about.json").write_text('{"name": ')


def a_list_of_names(cache):
    (cache / "about.json").write_text("[]")


def nothing_in_it(cache):
    for file in cache.iterdir():
        file.unlink()


def a_file(cache):
    nothing_in_it(cache)
    cache.rmdir()
    cache.write_text("in the way")


def a_changed_pixel(cache):
    content = bytearray((cache / "train_x.npy").read_bytes())
    content[-1] ^= 1
    (cache / "train_x.npy").write_bytes(content)


def a_changed_label(cache):
    np.save(cache / "test_y.npy", np.load(cache / "test_y.npy")[::-1])


def another_dtype(cache):
    x = np.load(cache / "test_x.npy")
    np.save(cache / "test_x.npy", x.view(np.int8))


def deep_names(cache):
    (cache / "about.json").write_text("[" * 100_000)


DAMAGES = (
    a_changed_pixel,
    a_changed_label,
    another_dtype,
    deep_names,
    no_labels,
    short_pixels,
    short_labels,
    other_labels,
    pickled_labels,
    torn_names,
    a_list_of_names,
    nothing_in_it,
    a_file,
)


@pytest.mark.parametrize("change", DAMAGES, ids=lambda change: change.__name__)
def test_a_damaged_cache_is_made_again(pets, caches, opened, change):
    first = pixels(load(f"folder:{pets}"))
    change(only_cache(caches))
    assert pixels(load(f"folder:{pets}")) == first
    assert len(opened) == 12
    assert sorted(f.name for f in only_cache(caches).iterdir()) == FILES
    load(f"folder:{pets}")
    assert len(opened) == 12


def small(store, number):
    x = np.full((2, 1, 1, 3), number, np.uint8)
    y = np.arange(2, dtype=np.int32)
    splits = (Split(store.rows(s, 2, iter(x)), y) for s in ("train", "test"))
    return Dataset("small", *splits, ("0", "1"))


@pytest.mark.parametrize("damaged", [False, True])
def test_of_two_processes_the_first_wins(tmp_path, damaged):
    path = tmp_path / "cache"
    if damaged:
        path.mkdir()
        (path / "about.json").write_text("")

    def slow(store):
        assert cached(path, "small", lambda other: small(other, 1)).train.x[0, 0, 0, 0] == 1
        return small(store, 2)

    assert cached(path, "small", slow).train.x[0, 0, 0, 0] == 1
    assert list(tmp_path.iterdir()) == [path]


# --- where it cannot be written


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, None])
def test_where_nothing_can_be_written_it_is_decoded_into_memory(
    pets, caches, capsys, monkeypatch, code
):
    want = pixels(load(f"folder:{pets}", size=4))
    capsys.readouterr()
    only_cache(caches).rename(caches / "away")
    if code is None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(pets / "cat" / "0.png"))
        reason, where = "Not a directory", "0.png/cls_jax/data"
    else:

        def refuse(*args, **kwargs):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(Path, "mkdir", refuse)
        reason, where = os.strerror(code), str(caches)
    source = load(f"folder:{pets}", size=4)
    assert pixels(source) == want
    assert type(source.train.x) is np.ndarray
    text = capsys.readouterr().err
    assert text.startswith("preparing pets: 6 pictures, into memory, since ")
    assert f"{where} cannot be written ({reason}); give data_dir" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "os.fsync", "numpy.save", "os.rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_nothing_stays(pets, caches, monkeypatch, call, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(call, refuse)
        with pytest.raises(InputError) as caught:
            load(f"folder:{pets}")
    for part in (f"of pets cannot be kept in {caches}", os.strerror(code), "free", "--data-dir"):
        assert part in str(caught.value)
    assert "XDG_CACHE_HOME" in str(caught.value)
    assert not caches.exists() or list(caches.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")
def test_a_write_that_fails_midway_is_told(pets, caches):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # the header and one picture and a half
    try:
        with pytest.raises(InputError, match=r"of pets cannot be kept in .* \(File too large\)"):
            load(f"folder:{pets}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not caches.exists()


# --- the store


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_store_keeps_rows_in_the_order_asked_for(tmp_path, in_memory):
    store = Store(None if in_memory else tmp_path, "numbers")
    x = store.rows("train", len(NUMBERS), (np.asfortranarray(row) for row in NUMBERS))
    np.testing.assert_array_equal(x, NUMBERS)
    order = np.random.default_rng(1).permutation(len(NUMBERS))
    np.testing.assert_array_equal(store.reordered("train", x, order), NUMBERS[order])
    for count in (3, 5):
        with pytest.raises(ValueError, match=r"zip"):
            store.rows("test", count, iter(NUMBERS[:4]))
    assert [f.name for f in tmp_path.glob("*.npy")] == ["train_x.npy"] * (not in_memory)


def test_on_a_terminal_a_bar_moves_and_goes(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    for variable in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(variable, raising=False)
    path = Path(os.devnull) / "cache"

    def make(store):
        store.begin(len(NUMBERS))
        store.rows("train", len(NUMBERS), NUMBERS)
        return Dataset("numbers", *(Split(NUMBERS, NUMBERS[:, 0, 0, 0]),) * 2, ("0",))

    cached(path, "numbers", make)
    text = terminal.getvalue()
    assert text.startswith("preparing numbers: 130 pictures, into memory, since ")
    assert "130/130" in text
    assert text.endswith("\x1b[2K")  # erased
