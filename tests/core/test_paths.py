"""Paths and names that a user or a stranger gives: one sentence, or a name that stays inside."""

import json
import os

import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.files import read_json, safe_name, safe_names
from cls_jax.core.paths import check_file, check_place, check_readable, resolved, user_path

BAD = {
    "empty": ("", 'workdir is ""; give a path, or leave --workdir out'),
    "zero": ("a\0b", "has a zero byte"),
    "home": ("~nobody-here/x", "nobody's home is ~nobody-here; write ./~nobody-here/x"),
    "latin-1": (os.fsdecode(b"\xe9t\xe9"), "is not UTF-8"),
    "name": ("x" * 256, "File name too long"),
    "path": ("x/" * 1900, "File name too long"),
    "loop": ("loop/x", "symbolic links|leads nowhere"),
    "dangling": ("nowhere/x", "nowhere is a link that leads nowhere"),
    "file": ("file/x", "file is a file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_place_that_cannot_be_is_told_and_nothing_is_written(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("not there")
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    text, expected = BAD[case]
    with pytest.raises(InputError, match=expected) as caught:
        check_place(text)
    assert str(caught.value).startswith("workdir ")
    assert len(str(caught.value)) < 600
    assert sorted(tmp_path.iterdir()) == before


def test_a_home_is_expanded_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x y", "out") == tmp_path / "x y"
    assert check_place("~/a/b", "out") == tmp_path / "a" / "b"
    assert str(user_path("a~/$^$ [b]", "out")) == "a~/$^$ [b]"


def test_what_cannot_be_read_or_entered_is_told(tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"out .*loop leads nowhere"):
        resolved(tmp_path / "loop", "out")
    with pytest.raises(InputError, match="no such folder"):
        check_readable(tmp_path / "loop")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.R_OK)  # root reads all
    for check in (check_readable, check_place):
        with pytest.raises(InputError, match="cannot be"):
            check(tmp_path)


def test_a_file_to_write_has_a_folder_and_is_none(tmp_path):
    assert check_file(tmp_path / "x.json", "json") == tmp_path / "x.json"
    for bad, expected in ((tmp_path, "is a folder"), (tmp_path / "a" / "x", "make it first")):
        with pytest.raises(InputError, match=expected):
            check_file(bad, "json")
    with pytest.raises(InputError, match="a shorter one"):
        check_file(tmp_path / ("x" * 210), "json")


NAMES = [
    "../victim",
    "/etc/x",
    "..",
    ".",
    "",
    "a\0b",
    "a\nb",
    "C:\\x",
    "é" * 200,
    "x" * 400,
    ".lock",
]
NAMES += ["\udce9", "a/b", "a:b", "*", "[a]", "$^$", "x" * 399 + "y"]


def test_every_name_becomes_a_part_of_a_file_name_of_its_own(tmp_path):
    names = [safe_name(name) for name in NAMES]
    assert len(set(names)) == len(NAMES)
    for name in names:
        assert not set(name) & set('/\\:\0\n*?[]"<>|$')
        assert name[0] != "."
        assert len(name.encode()) <= 100
        (tmp_path / f"accuracy_{name}_seed0.csv").touch()
    assert len(list(tmp_path.iterdir())) == len(NAMES)


def test_usual_names_stay_as_they_are():
    for name in ("er_ace", "sgd learning_rate=0.1", "APD(1) 2-0-1", "été", "er (a)"):
        assert safe_name(name) == name.replace(" ", "_")


def test_names_that_would_be_one_file_are_told_apart():
    names = ["er (x y)", "er (x_y)", "ER", "er", "sgd", "sgd"]
    safe = safe_names(names)
    assert safe[4:] == ["sgd", "sgd"]
    assert len({name.casefold() for name in safe}) == 5


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 100 + "]" * 100, "NaN", "{", "\xe9"])
def test_json_of_a_stranger(tmp_path, text):
    (tmp_path / "x").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError):
        read_json(tmp_path / "x")
    (tmp_path / "x").write_text(json.dumps({"a": [1, {"b": None}]}))
    assert read_json(tmp_path / "x") == {"a": [1, {"b": None}]}
    with pytest.raises(ValueError, match="not a file"):
        read_json(tmp_path)
