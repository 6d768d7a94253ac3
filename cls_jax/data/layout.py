"""Which pictures of a folder are of which class and split; whatever is left out is said."""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.data.listing import (
    IMAGES,
    Entry,
    check_name,
    class_pictures,
    count,
    entries,
    folders,
    has_pictures,
    holds_runs,
)
from cls_jax.data.local import held_out
from cls_jax.data.pictures import printable

_ROLES = (("train", "training"), ("test", "testing"), ("val", "valid", "validation"))
_ANNOTATIONS = "val_annotations.txt"  # Tiny-ImageNet's: file, tab, class, tab, a box
_SHOWN = 8  # classes of which it is said one by one what was left out

Classes = dict[str, list[str]]
"""Class name -> the paths of its pictures; both in the order of their names."""


class Layout(NamedTuple):
    """What a folder of pictures holds.

    Attributes:
      train, test: the same classes in the same order.
      said: a line for everything that is not read, or not as its name says.
    """

    train: Classes
    test: Classes
    said: list[str]


def find_pictures(root: Path) -> Layout:
    """The classes in ``root``, with the split that it has or a fifth of each class held out.

    Raises:
      InputError: one sentence that says what does not fit, and what would.
    """
    inside = folders(root)
    parts = [[e for e in inside if e.name.casefold() in names] for names in _ROLES]
    named = [entry for part in parts for entry in part]
    if any(_holds_classes(entry.path) for entry in named):
        train, test, said = _split(root, parts, [e for e in inside if e not in named])
    else:
        if len(named) > 1 and len(named) == len(inside):
            raise InputError(
                f"folder {root}: {_and(named)} hold no class folders, so nothing says of which "
                f"class a picture is; sort them into {named[0].name}/<class>/ and so on"
            )
        classes, said = _classes(root)
        train, test = _divided(root, classes)
        if read := [entry for entry in named if entry.name in classes]:
            said.append(f"{_and(read)} read as a class each: no class folders are inside")
    _check_distinct(root, train, test)
    return Layout(train, test, [f"folder {root}: {line}" for line in said])


def _holds_classes(directory: str) -> bool:
    """Whether a folder has class folders, and not the pictures of a class."""
    if has_pictures(directory):
        return False
    inside = (entry for entry in folders(directory) if entry.name.casefold() != IMAGES)
    return any(class_pictures(entry.path)[0] for entry in inside)


def _is_labelled(directory: str) -> bool:
    """Whether anything tells the classes of the pictures in a folder."""
    return _holds_classes(directory) or _is_annotated(directory)


def _is_annotated(directory: str) -> bool:
    """Whether a table tells the classes of a folder that has no class folders."""
    return os.path.isfile(os.path.join(directory, _ANNOTATIONS)) and not _holds_classes(directory)


def _split(
    root: Path, parts: list[list[Entry]], beside: list[Entry]
) -> tuple[Classes, Classes, list[str]]:
    """Train, test and what is said, of a folder that has a split of its own."""
    for part in parts:
        if len(part) > 1:
            raise InputError(f"folder {root} has {_and(part)}, which mean the same; rename or "
                             "remove one")  # fmt: skip
    train, test, val = (part[0] if part else None for part in parts)
    given = [entry for entry in (train, test, val) if entry is not None]
    if train is None or len(given) == 1:
        raise InputError(
            f"folder {root} has {_and(given)} alone; give both train/ and test/ (or val/), or "
            f"give folder:{root / given[0].name} (then a fifth of each class is held out), or, "
            f"where {given[0].name} is a class, put its pictures right into {given[0].name}/"
        )
    said = []
    used, unused = (val, None) if test is None else (test, val)
    assert used is not None
    why = f"{used.name}/ is the test split"
    if unused is not None and not _holds_classes(used.path) and _is_labelled(unused.path):
        used, unused, why = unused, used, "it has no class folders"
    if used is val:
        said.append(f"{used.name}/ is read as the test split")
    if unused is not None:
        said.append(f"{unused.name}/ is left out ({_pictures(count(unused.path))}): {why}")
    for entry in beside:
        if number := count(entry.path):
            said.append(
                f"{printable(entry.name)}/ is left out ({_pictures(number)}): it stands beside "
                f"{train.name}/ and {used.name}/"
            )
    said += _loose(root)
    splits = []
    for entry in (train, used):
        read = _annotated if _is_annotated(entry.path) else _classes
        classes, lines = read(Path(entry.path))
        splits.append(classes)
        said += [f"{entry.name}/: {line}" for line in lines]
    if splits[0].keys() != splits[1].keys():
        names = sorted(splits[0].keys() ^ splits[1].keys())
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise InputError(
            f"folder {root}: classes {names[:5]}{more} are in only one of {train.name}/ and "
            f"{used.name}/; both need the same class folders"
        )
    return *splits, said


def _divided(root: Path, classes: Classes) -> tuple[Classes, Classes]:
    """Train and test of classes without a split of their own: ``held_out``."""
    train, test = {}, {}
    for name, files in classes.items():
        if len(files) < 2:
            raise InputError(
                f"folder {root / name} holds one picture; a class needs two at least, "
                "since a fifth of it is held out for testing"
            )
        mask = held_out(np.zeros(len(files)))
        train[name] = [f for f, out in zip(files, mask, strict=True) if not out]
        test[name] = [f for f, out in zip(files, mask, strict=True) if out]
    return train, test


def _classes(directory: Path) -> tuple[Classes, list[str]]:
    """Every class folder of a directory, and what is said."""
    classes, left, said = {}, {}, _loose(directory)
    for entry in folders(directory):
        if holds_runs(entry.path):
            said.append(f"{printable(entry.name)}/ is left out: it holds results of runs")
            continue
        check_name(entry.name, entry.path)
        files, left[entry.name] = class_pictures(entry.path)
        if not files:
            raise _empty(entry.path, left[entry.name])
        classes[entry.name] = files
    if len(classes) < 2:
        raise InputError(
            f"folder {directory} has {len(classes)} class folder{'s'[: len(classes) != 1]}; it "
            "needs at least 2, one sub-folder a class with its pictures inside"
            + (f" ({said[0]})" if said else "")
        )
    short = [(name, reasons) for name, reasons in left.items() if reasons]
    said += [f"class {name}: {_files(reasons)} left out" for name, reasons in short[:_SHOWN]]
    if rest := short[_SHOWN:]:
        total = sum(reasons.total() for _, reasons in rest)
        said.append(f"{len(rest)} more classes: {total} files left out")
    return classes, said


def _annotated(directory: Path) -> tuple[Classes, list[str]]:
    """The classes that a table tells, as in Tiny-ImageNet's validation split; what is said."""
    table = directory / _ANNOTATIONS
    try:
        rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
        labels = {row[0]: row[1] for row in rows if row[0]}
    except (OSError, ValueError, IndexError) as error:
        raise InputError(
            f"{table} cannot be read as lines of a file's name, a tab and its class ({error}); "
            f"copy it again, or sort the pictures into {directory}/<class>/"
        ) from error
    files, left = class_pictures(os.fspath(directory))
    there = {os.path.basename(file): file for file in files}
    if missing := sorted(labels.keys() - there.keys()):
        raise InputError(
            f"{table} names {_pictures(len(missing))} that are not in {directory / IMAGES}, e.g. "
            f"{printable(missing[0])}; copy the folder again"
        )
    classes: Classes = {name: [] for name in sorted(set(labels.values()))}
    for name in classes:
        check_name(name, directory / name)
    for file in sorted(labels):
        classes[labels[file]].append(there[file])
    left = +(left - Counter({".txt": 1}) + Counter({"of no class": len(there) - len(labels)}))
    return classes, [f"{_files(left)} left out"] if left else []


def _loose(directory: str | Path) -> list[str]:
    """What is said of pictures beside class folders, and of hidden folders that hold any."""
    said = []
    loose = [e for e in entries(directory) if e.named_as_picture and not e.hidden]
    if loose:
        said.append(f"{_pictures(len(loose))} in no class folder left out, "
                    f"e.g. {printable(loose[0].name)}")  # fmt: skip
    for entry in entries(directory):
        if entry.hidden and entry.kind == "folder" and has_pictures(entry.path):
            said.append(f"{printable(entry.name)}/ is left out, with its pictures: it is hidden")
    return said


def _empty(path: str, left: Counter[str]) -> InputError:
    """The sentence for a class without a picture."""
    deeper = [reason for reason in left if reason.startswith("in the sub-folder")]
    if deeper:
        remedy = f"move them up, or give folder:{path} if its sub-folders are the classes"
    else:
        remedy = "fill it or remove it, since every sub-folder is a class"
    return InputError(
        f"folder {path} holds no picture{f' itself but {_files(left)}' if left else ''}; {remedy}"
    )


def _check_distinct(root: Path, *splits: Classes) -> None:
    """Raises InputError if links make one folder two classes, or train and test."""
    seen: dict[tuple[int, int], str] = {}
    for files in (files for classes in splits for files in classes.values()):
        folder = os.path.dirname(files[0])
        stat = os.stat(folder)
        other = seen.setdefault((stat.st_dev, stat.st_ino), folder)
        if other != folder and stat.st_ino:
            names = [os.path.relpath(path, root) for path in (other, folder)]
            raise InputError(
                f"folder {root}: {names[0]} and {names[1]} are one and the same folder (a link); "
                "no picture can be of two classes or splits: remove one of them"
            )


def _pictures(number: int) -> str:
    return f"{number} picture{'s'[: number != 1]}"


def _files(left: Counter[str]) -> str:
    """How many files of which kinds."""
    kinds = [f"{number} {kind}" for kind, number in left.most_common(3)]
    more = ["..."] if len(left) > 3 else []
    return f"{left.total()} file{'s'[: left.total() != 1]} ({', '.join(kinds + more)})"


def _and(named: list[Entry]) -> str:
    return " and ".join(f"{printable(entry.name)}/" for entry in named)
