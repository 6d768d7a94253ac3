"""Files that are whole or absent, names that are safe, JSON that may be a stranger's."""

import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_NAME_BYTES = 100
_DEPTH = 64
_MEGABYTES = 64


def plain(value: Any) -> Any:
    """``value`` as JSON will give it back: lists, str keys, Python numbers, None for NaN."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def json_text(value: Any) -> str:
    """``value`` as strict JSON (NaN as null), indented."""
    return json.dumps(plain(value), indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes ``json_text``, the whole file or nothing."""
    write_file(path, json_text(value))


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a whole file or nothing: beside it first, then renamed over it."""
    write_all(path.parent, {path.name: content})


def write_all(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Writes files into a folder that is there: each beside its place, then all are renamed.

    So none is ever half written, and a disk that is full leaves all as they were.

    Args:
      folder: where to.
      files: name -> content, text in UTF-8; renamed in this order, so that what says that all is
        there comes last.
    """
    beside = {name: folder / f".{name}.{os.getpid()}.tmp" for name in files}
    try:
        for name, content in files.items():
            beside[name].unlink(missing_ok=True)  # a link that lies there is not written through
            with open(beside[name], "xb") as file:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
        for name, path in beside.items():
            os.replace(path, folder / name)
    finally:
        for path in beside.values():
            path.unlink(missing_ok=True)


def safe_name(name: str) -> str:
    """``name`` as a part of a file name: at most 100 bytes, no separator, no leading dot.

    Letters, digits and ``_ . = + , ( ) -`` stay; a space is ``_``. Whatever else is changed is told
    apart by a digest of the name at its end.
    """
    safe = re.sub(r"[^\w.=+,()-]", "_", name.replace(" ", "_"))
    safe = re.sub(r"^\.+", "_", safe)
    if safe and safe == name.replace(" ", "_") and len(safe.encode()) <= _NAME_BYTES:
        return safe
    return _with_digest(safe, name)


def safe_names(names: Sequence[str]) -> list[str]:
    """``safe_name`` of each, all different where the names are, on any file system.

    Names that only a space, or a capital, tells apart get a digest each.
    """
    safe = [safe_name(name) for name in names]
    owners = Counter(one.casefold() for one in dict(zip(names, safe, strict=True)).values())
    return [
        one if owners[one.casefold()] == 1 else _with_digest(one, name)
        for name, one in zip(names, safe, strict=True)
    ]


def _with_digest(safe: str, name: str) -> str:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=5).hexdigest()
    front = safe.encode()[: _NAME_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{front}-{digest}"


class NoJson(ValueError):
    """It is no JSON that we read; says why in a few words."""


def read_json(path: str | os.PathLike) -> Any:
    """The value in a JSON file that may be a stranger's.

    Raises:
      OSError: it cannot be read.
      NoJson: it is not a file, larger than 64 MiB, not JSON, or nested more than 64 deep.
    """
    path = Path(path)
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise NoJson("not a file")
    if about.st_size > _MEGABYTES * 2**20:
        raise NoJson(f"larger than {_MEGABYTES} MiB")
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except NoJson:
        raise
    except ValueError:
        raise NoJson("not JSON") from None
    except RecursionError:
        raise NoJson(f"nested more than {_DEPTH} deep") from None
    level = [value]
    for _ in range(_DEPTH):
        level = [inner for outer in level for inner in _items(outer)]
        if not level:
            return value
    raise NoJson(f"nested more than {_DEPTH} deep")


def _items(value: Any) -> list[Any]:
    inside = value.values() if isinstance(value, dict) else value if type(value) is list else ()
    return [item for item in inside if isinstance(item, dict | list)]


def _no_number(text: str) -> None:
    raise NoJson(f"{text} is not JSON")
