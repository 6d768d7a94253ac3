"""What lies in a folder: entries of a directory, the pictures of one class, and what is neither.

Kinds of files are told by their names and by what the file system says of them; no picture is
opened. Hidden entries (those whose names begin with a dot) are never read.
"""

import contextlib
import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from cls_jax.core.errors import InputError
from cls_jax.core.files import read_json
from cls_jax.data.pictures import printable, suffixes

IMAGES = "images"  # the sub-folder of each class in Tiny-ImageNet
_RUNS_DEEP = 4  # folders in folders in which the record of a run is looked for


class Entry(NamedTuple):
    """An entry of a directory.

    Attributes:
      name, path: the path begins with the directory.
      kind: of what it is or leads to: file, folder, link (one that leads nowhere) or other.
    """

    name: str
    path: str
    kind: str

    @property
    def hidden(self) -> bool:
        """Whether it is left alone."""
        return self.name.startswith(".")

    @property
    def named_as_picture(self) -> bool:
        """Whether it is called as pictures are, and no folder."""
        return self.kind != "folder" and _suffix(self.name) in suffixes()


def entries(directory: str | Path) -> list[Entry]:
    """The entries of a directory in the order of their names; raises InputError if it is shut."""
    try:
        with os.scandir(directory) as found:
            return sorted(Entry(e.name, e.path, _kind(e)) for e in found)
    except OSError as error:
        raise unreadable(error, directory) from error


def folders(directory: str | Path) -> list[Entry]:
    """The folders in a directory that are not hidden; raises InputError for a link to nowhere."""
    found = [entry for entry in entries(directory) if not entry.hidden]
    for entry in found:
        if entry.kind == "link":
            raise InputError(f"{_lost(entry)}, where folders of pictures are; mend or remove it")
    return [entry for entry in found if entry.kind == "folder"]


def class_pictures(directory: str) -> tuple[list[str], Counter[str]]:
    """The pictures of one class: those in its folder, or else in its sub-folder ``images``.

    Returns:
      Their paths in the order of their names; how many other files there are, of which kind.

    Raises:
      InputError: a picture's name leads to no file, or a folder cannot be read.
    """
    files, left, below = [], Counter(), []
    for entry in entries(directory):
        if entry.named_as_picture:
            if entry.hidden:
                left["hidden"] += 1
            elif entry.kind == "file":
                files.append(entry.path)
            else:
                lost = _lost(entry) if entry.kind == "link" else f"{entry.path} is no file"
                raise InputError(f"{lost}, though it is named like a picture; mend or remove it")
        elif entry.hidden:
            continue
        elif entry.kind == "folder":
            below.append(entry)
        else:
            left[printable(_suffix(entry.name)) or "without suffix"] += 1
    for entry in below:
        if not files and entry.name.casefold() == IMAGES:
            files, more = class_pictures(entry.path)
            left += more
        elif number := count(entry.path):
            left[f"in the sub-folder {printable(entry.name)}/"] += number
    return files, left


def has_pictures(directory: str) -> bool:
    """Whether pictures lie in a directory itself; False for one that is shut."""
    with contextlib.suppress(OSError), os.scandir(directory) as found:
        each = (Entry(e.name, e.path, _kind(e)) for e in found)
        return any(entry.named_as_picture and not entry.hidden for entry in each)
    return False


def count(directory: str) -> int:
    """How many files in a directory, however deep (links aside), are named like pictures."""

    def stop(error: OSError) -> None:
        raise unreadable(error, directory) from error

    walk = os.walk(directory, onerror=stop)
    return sum(_suffix(name) in suffixes() for _, _, names in walk for name in names)


def holds_runs(directory: str, deep: int = _RUNS_DEEP) -> bool:
    """Whether a folder is the workdir of a run, or has no pictures but folders of such ones."""
    with contextlib.suppress(OSError, ValueError):
        record = Path(directory, "config.json")
        if record.is_file():
            content = read_json(record)
            return isinstance(content, dict) and "config" in content
    if deep == 0 or has_pictures(directory):
        return False
    inside = (e.path for e in entries(directory) if e.kind == "folder" and not e.hidden)
    return any(holds_runs(path, deep - 1) for path in inside)


def check_name(name: str, path: str | Path) -> None:
    """Raises InputError for a name that is no text: results are files that hold it."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise InputError(
            f"folder {os.fspath(path)!a} has a name that is not UTF-8 text, or holds control "
            "characters; rename it"
        )


def unreadable(error: OSError, path: str | Path) -> InputError:
    """The sentence for what the file system refuses to read."""
    return InputError(
        f"{printable(os.fspath(error.filename or path))} cannot be read "
        f"({error.strerror or error}); mend it or its permissions, or take it out of the folder"
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _kind(entry: os.DirEntry) -> str:
    with contextlib.suppress(OSError):  # a link that leads back to itself
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        if os.path.exists(entry.path):
            return "other"
    return "link" if entry.is_symlink() else "other"


def _lost(entry: Entry) -> str:
    target = printable(os.readlink(entry.path))
    return f"{printable(entry.path)} is a link that leads nowhere (to {target})"
