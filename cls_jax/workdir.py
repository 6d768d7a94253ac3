"""The folder of one experiment: whose it is, what made it; no file in it is ever half written."""

import functools
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import cls_jax
from cls_jax.types import InputError

CONFIG = "config.json"

WHERE_NOT_WHAT = frozenset({"workdir", "data_dir", "tensorboard"})
"""Fields that may differ between two runs of one and the same experiment."""


def check_workdir(workdir: str | Path, config: Mapping[str, Any]) -> bool:
    """Whether ``workdir`` holds this experiment already; writes nothing.

    Args:
      workdir: a folder, there or not yet there.
      config: every field of the experiment, nested mappings allowed.

    Raises:
      InputError: it is a file, cannot be written, or holds another experiment.
    """
    workdir = Path(workdir)
    nearest = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"workdir {workdir}: {nearest} is a file; give another --workdir")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"workdir {workdir}: {nearest} cannot be written; give another --workdir")
    if not (workdir / CONFIG).exists():
        return False
    try:
        old = json.loads((workdir / CONFIG).read_text(encoding="utf-8"))["config"]
        differences = _differences(old, plain(config))
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise InputError(
            f"workdir {workdir} holds a {CONFIG} that is not a record of cls_jax; "
            "give another --workdir"
        ) from None
    if differences:
        shown = "; ".join(differences[:3])
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(
            f"workdir {workdir} holds another experiment ({shown}{more}); "
            "give another --workdir or remove that folder"
        )
    return True


def prepare_workdir(workdir: str | Path, config: Mapping[str, Any]) -> Path:
    """The folder, made, with its config.json; call it last before the compute starts.

    A folder that holds the same experiment is taken again, and stderr says so.

    Raises:
      InputError: as ``check_workdir``, or the folder could not be made.
    """
    workdir = Path(workdir)
    if check_workdir(workdir, config):
        print(
            f"{workdir} holds this same experiment; its results will be rewritten", file=sys.stderr
        )
    return write_config(workdir, config)


def write_config(workdir: str | Path, config: Mapping[str, Any]) -> Path:
    """The folder, made, with a config.json of ``config`` and ``provenance()``."""
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / CONFIG, {"config": config, **provenance()})
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"workdir {workdir}: {reason}; give another --workdir") from error
    return workdir


def provenance() -> dict[str, Any]:
    """What made a result: command line, commit, versions, device."""
    import jax

    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "command": command(),
        "commit": commit(),
        "versions": {
            "cls_jax": cls_jax.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
    }


def command() -> str:
    """The command line of this process, ready to be pasted into a shell."""
    return shlex.join(["python", *sys.orig_argv[1:]])


@functools.cache
def commit() -> str | None:
    """The git commit of the package, "-dirty" if tracked files differ; None outside a checkout.

    Asked once a process, so that a commit made during a long run does not enter its record.
    """
    package = Path(cls_jax.__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # installed into someone's checkout: no
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


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


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON (NaN as null), indented, atomically."""
    write_file(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a whole file or nothing: beside it first, then renamed over it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """ "name: old → new" of every field that makes these two experiments, in the new order."""
    old, new = _flat(old), _flat(new)
    return [
        f"{name}: {_shown(old, name)} → {_shown(new, name)}"
        for name in dict.fromkeys((*new, *old))
        if name.split(".")[-1] not in WHERE_NOT_WHAT
        and (name not in old or name not in new or old[name] != new[name])
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def _shown(config: Mapping[str, Any], name: str) -> str:
    return json.dumps(config[name], ensure_ascii=False) if name in config else "absent"
