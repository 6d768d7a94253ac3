"""The folder of one experiment: whose it is, what made it; no file in it is ever half written."""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import cls_jax
from cls_jax.errors import InputError

CONFIG = "config.json"

HOW_NOT_WHAT = frozenset(
    "workdir data_dir tensorboard chunk mode over_seeds devices data_on save_every keep restart "  # noqa: SIM905
    "profile compile_cache coordinator num_processes process_id".split()
)
"""Fields that may differ between two runs of one and the same experiment."""


def check_workdir(
    workdir: str | Path, config: Mapping[str, Any], same: Mapping[str, Any] | None = None
) -> bool:
    """Whether ``workdir`` holds this experiment already; writes nothing.

    Args:
      workdir: a folder, there or not yet there.
      config: every field of the experiment, nested mappings allowed.
      same: what else must be the same, by name: the data, the software.

    Raises:
      InputError: it is a file, cannot be written, or holds another experiment.
    """
    workdir = Path(workdir)
    check_place(workdir)
    if not (workdir / CONFIG).exists():
        return False
    try:
        record = json.loads((workdir / CONFIG).read_text(encoding="utf-8"))
        differences = _differences(record["config"], plain(config))
        for name, value in (same or {}).items():
            old, new = ({name: given} for given in (record.get(name, value), value))
            differences += _differences(plain(old), plain(new))
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
            "give another --workdir, or --restart to move that one aside"
        )
    return True


def check_place(folder: Path, flag: str = "workdir") -> None:
    """Raises InputError unless the folder given with ``--flag`` can be written, or made."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"{flag} {folder}: {nearest} is a file; give another --{flag}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {folder}: {nearest} cannot be written; give another --{flag}")


def prepare_workdir(
    workdir: str | Path, config: Mapping[str, Any], same: Mapping[str, Any] | None = None
) -> Path:
    """The folder, made, with its config.json; call it last before the compute starts.

    A folder that holds the same experiment is taken again, and its config.json remembers that.

    Args:
      workdir, config, same: as ``check_workdir``.

    Raises:
      InputError: as ``check_workdir``, or the folder could not be made.
    """
    workdir = Path(workdir)
    if not check_workdir(workdir, config, same):
        return write_config(workdir, config, same)
    with writing(workdir):
        record = json.loads((workdir / CONFIG).read_text(encoding="utf-8"))
        record.setdefault("resumed", []).append(provenance())
        write_json(workdir / CONFIG, record)
    return workdir


@contextlib.contextmanager
def claimed(
    workdir: str | Path,
    config: Mapping[str, Any],
    same: Mapping[str, Any],
    *,
    restart: bool = False,
) -> Iterator[Path]:
    """The folder, prepared, for this process alone.

    Args:
      workdir, config, same: as ``check_workdir``.
      restart: an experiment that is there is moved aside first, to the first free name WORKDIR.1,
        WORKDIR.2, ...; nothing is ever deleted.

    Raises:
      InputError: as ``check_workdir``, or another process is using the folder.
    """
    workdir = Path(workdir)
    if restart and (workdir / CONFIG).exists():
        names = (workdir.with_name(f"{workdir.name}.{n}") for n in itertools.count(1))
        aside = next(path for path in names if not path.exists())
        with locked(workdir), writing(workdir):
            workdir.rename(aside)
        print(f"{workdir} was moved to {aside}", file=sys.stderr)
    check_workdir(workdir, config, same)
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir):
        yield prepare_workdir(workdir, config, same)


def write_config(
    workdir: str | Path, config: Mapping[str, Any], same: Mapping[str, Any] | None = None
) -> Path:
    """The folder, made, with a config.json of ``config``, ``same`` and ``provenance()``."""
    workdir = Path(workdir)
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / CONFIG, {"config": config, **(same or {}), **provenance()})
    return workdir


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


@contextlib.contextmanager
def locked(workdir: str | Path) -> Iterator[None]:
    """Inside, no other process can be in here with the same folder; a killed one lets go.

    Raises:
      InputError: another process is.
    """
    import fcntl

    with writing(workdir):
        file = open(Path(workdir) / ".lock", "a+")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"workdir {workdir} is in use by process {file.read().strip() or 'unknown'}; wait "
                "for it, or give another --workdir"
            ) from None
        except OSError:  # a network drive without locks
            print(f"warning: {workdir} cannot be locked; let one process use it", file=sys.stderr)
        with writing(workdir):  # past the buffer, which would fail once more as the file closes
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def software() -> dict[str, str]:
    """What computes: versions of the packages that fix the numbers, and a digest of our code."""
    digest = hashlib.blake2b(digest_size=8)
    package = Path(cls_jax.__file__).resolve().parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {name: metadata.version(name) for name in packages} | {"cls_jax": digest.hexdigest()}


def provenance() -> dict[str, Any]:
    """What made a result: command line, commit, versions, device."""
    import jax

    device, mine = jax.devices()[0], {"cls_jax": cls_jax.__version__}
    return {
        "command": command(),
        "commit": commit(),
        "versions": {**software(), **mine, "python": platform.python_version()},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
    }


def command() -> str:
    """The command line of this process, or of %run in a notebook, ready for a shell."""
    in_notebook = any("kernel_launcher" in part for part in sys.orig_argv)  # Jupyter's, Colab's
    return shlex.join(["python", *(sys.argv if in_notebook else sys.orig_argv[1:])])


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
        if name.split(".")[-1] not in HOW_NOT_WHAT
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
