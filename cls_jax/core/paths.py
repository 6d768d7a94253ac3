"""Paths that a user types: made whole, and checked before anything is written.

Inside a folder of ours no link is followed: what was sent with the folder would say where we write.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_cache_path

from cls_jax.core.errors import InputError

_OURS = ("x" * 200, *["x" * 100] * 6)  # no path below a workdir is longer than this


def user_path(text: str | os.PathLike, flag: str) -> Path:
    """The path that was given with ``--flag``, a leading ``~`` expanded; nothing is touched.

    Raises:
      InputError: it is empty, has a zero byte, is not UTF-8, or names the home of nobody.
    """
    typed = os.fspath(text)
    given = f"--{flag.replace('_', '-')}"
    if not typed:
        raise InputError(f'{flag} is ""; give a path, or leave {given} out')
    if "\0" in typed:
        raise InputError(f"{flag} {typed!r} has a zero byte in it, which no path may have")
    path = Path(os.path.expanduser(typed))
    if path.parts[:1] and path.parts[0].startswith("~"):
        raise InputError(
            f"{flag} {typed}: nobody's home is {path.parts[0]}; write ./{typed} if that is its name"
        )
    try:
        os.fspath(path.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{flag} {os.fspath(path.absolute())!a} is not UTF-8, which the files written there "
            f"could not say; give another {given}"
        ) from None
    return path


def expanded(text: str | None) -> str | None:
    """``text`` with a leading ``~`` replaced; all else, None too, as it is."""
    return text if text is None else os.path.expanduser(text)


def cache_home() -> Path | None:
    """The user's folder for caches of ours, as platformdirs knows it; None without a home."""
    try:
        folder = user_cache_path("cls_jax", appauthor=False)
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def check_place(folder: str | os.PathLike, flag: str = "workdir") -> Path:
    """The folder given with ``--flag``, which can be written, or made; nothing is written.

    Raises:
      InputError: as ``user_path``; it is a file, a link that leads nowhere, too long, or it cannot
        be read or written.
    """
    folder = user_path(folder, flag)
    other = f"give another --{flag.replace('_', '-')}"
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            folder.joinpath(*_OURS).lstat()
        nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
        mode = nearest.stat().st_mode
    except OSError as error:
        broken = isinstance(error, FileNotFoundError)  # lexists, but leads nowhere
        why = f"{nearest} is a link that leads nowhere" if broken else error.strerror or str(error)
        raise InputError(f"{flag} {short_path(folder)}: {why}; {other}") from None
    if not stat.S_ISDIR(mode):
        raise InputError(f"{flag} {folder}: {nearest} is a file; {other}")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        raise InputError(f"{flag} {folder}: {nearest} cannot be written and read; {other}")
    return folder


def resolved(path: str | os.PathLike, flag: str) -> Path:
    """Where the path given with ``--flag`` leads, all links followed.

    Raises:
      InputError: as ``user_path``, or its links lead in a circle.
    """
    try:
        place = user_path(path, flag).resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            place.stat()  # from Python 3.13 on `resolve` follows a circle without a word
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"{flag} {short_path(path)} leads nowhere ({why}); give another path"
        ) from None
    return place


def check_readable(folder: str | os.PathLike, flag: str = "workdir") -> Path:
    """The folder given with ``--flag``, which is there and can be read.

    Raises:
      InputError: as ``user_path``; it is not there, no folder, or cannot be read.
    """
    folder = user_path(folder, flag)
    if not os.path.isdir(folder):
        raise InputError(f"{flag} {short_path(folder)}: there is no such folder")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{flag} {folder} cannot be read; ask its owner, or give another folder")
    return folder


def check_file(file: str | os.PathLike, flag: str) -> Path:
    """The file given with ``--flag``, in a folder that is there; nothing is written.

    Raises:
      InputError: as ``check_place``; it is a folder, or its own folder is not there.
    """
    file = user_path(file, flag)
    parent = file.absolute().parent
    if not parent.is_dir():
        raise InputError(
            f"{flag} is {short_path(file)!r}, in a folder that is not there; make it first"
        )
    check_place(parent, flag)
    if file.is_dir():
        raise InputError(f"{flag} is {str(file)!r}, which is a folder; give the path of a file")
    if len(os.fsencode(file.name)) > 200:
        raise InputError(
            f"{flag} is {short_path(file)!r}, a name that is too long; give a shorter one"
        )
    return file


def check_no_links(folder: Path, *names: str, flag: str = "workdir") -> None:
    """Raises InputError if ``names`` in ``folder`` are links: they would lead out of it."""
    for name in names:
        if (folder / name).is_symlink():
            raise InputError(
                f"{flag} {folder}: {name} in it is a link, and none is followed there; put the "
                "whole folder where it leads, and a link to that"
            )


@contextlib.contextmanager
def writing(workdir: str | Path, flag: str = "workdir") -> Iterator[None]:
    """Inside, a disk that is full or cannot be written is told in one sentence.

    Args:
      workdir: the folder that is written.
      flag: where it was given.

    Raises:
      InputError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{flag} {workdir}: {error.strerror or error}; mend that and run the same command "
            f"again, or give another --{flag}"
        ) from error


def short_path(text: str | os.PathLike) -> str:
    """A text for a sentence: the middle of a very long one is left out."""
    text = os.fspath(text)
    return text if len(text) <= 200 else f"{text[:90]}...{text[-90:]}"
