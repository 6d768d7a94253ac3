"""What a stranger's tfds folder may say, checked before tfds reads it.

tfds imports whatever class ``features.json`` names, opens whatever path a split's template makes,
and hands whatever bytes a picture holds to Pillow, which starts other programs for some of them.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cls_jax.core.errors import InputError

_CLASS_KEYS = {"pythonClassName", "python_class_name"}
_TFDS = re.compile(r"tensorflow_datasets(\.\w+)+")
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM")


def check_folder(title: str, folder: Path) -> None:
    """Raises InputError unless tfds may read what the folder's two JSON files say.

    Args:
      title: of the set.
      folder: of one version of it.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        """Sees every name of every object: one that stands twice, one inside a text of JSON."""
        old = {"type", "content"} <= {key for key, _ in found}  # as tfds wrote it up to 4.2
        for key, value in found:
            if not isinstance(value, str):
                continue
            if value.lstrip()[:1] in ("{", "["):
                with contextlib.suppress(json.JSONDecodeError):  # a description that begins so
                    json.loads(value, object_pairs_hook=pairs)
            named = key in _CLASS_KEYS or (key == "type" and old)
            if named and not _TFDS.fullmatch(value):
                raise InputError(
                    f"data set {title!r} in {folder} names the Python class {value!r}, and only "
                    "classes of tensorflow_datasets are loaded; have the set prepared anew with "
                    "features of tfds"
                )
        return dict(found)

    for name, hook in (("features.json", pairs), ("dataset_info.json", dict)):
        file = folder / name
        if not file.is_file():
            raise InputError(
                f"data set {title!r} in {folder} lacks its file {name}; copy the folder again, or "
                "delete it to have it prepared anew"
            )
        try:
            whole = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=hook)
        except InputError:
            raise
        except RecursionError:
            whole = None
        except (OSError, ValueError) as error:
            raise _unreadable(title, file, str(error)) from error
        if not isinstance(whole, dict):
            raise _unreadable(title, file, "it is no JSON object, or nested too deeply")


def check_inside(title: str, folder: Path, files: Iterable[os.PathLike]) -> None:
    """Raises InputError where a split's file would lie outside its folder.

    Args:
      title: of the set.
      folder: of one version of it.
      files: as tfds would open them.
    """
    home = os.path.abspath(folder)
    for file in files:
        if os.path.dirname(os.path.abspath(file)) != home:
            raise InputError(
                f"data set {title!r} in {folder} names the file {os.fspath(file)!r}, which lies "
                "outside its folder; copy the folder again, or delete it to have it prepared anew"
            )


def only_pictures(title: str, feature: Any) -> None:
    """Makes tfds decode the picture formats that Pillow itself reads, and no other.

    Args:
      title: of the set.
      feature: of tfds; every Image in it raises InputError for other bytes from now on.
    """
    if hasattr(feature, "feature"):  # a sequence of one
        only_pictures(title, feature.feature)
    elif hasattr(feature, "values"):
        for one in feature.values():
            only_pictures(title, one)
    elif hasattr(feature, "decode_example_np_with_pil"):
        feature.decode_example_np = _checking(title, feature.decode_example_np)


def _checking(title: str, decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def checked(content: Any) -> Any:
        if isinstance(content, bytes) and not content.startswith(_PICTURES):
            raise InputError(
                f"data set {title!r} holds a picture that begins with {content[:8]!r}; only PNG, "
                "JPEG, GIF and BMP are decoded"
            )
        return decode(content)

    return checked


def _unreadable(title: str, file: Path, why: str) -> InputError:
    return InputError(
        f"data set {title!r} in {file.parent} cannot be read ({file.name}: {why}); copy the folder "
        "again, or delete it to have it prepared anew"
    )
