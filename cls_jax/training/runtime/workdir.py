"""The folder of one experiment: whose it is, and that nobody else writes there."""

import contextlib
import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cls_jax.core.errors import InputError
from cls_jax.core.files import plain, read_json, write_json
from cls_jax.core.paths import check_no_links, check_place, writing
from cls_jax.training.runtime.lock import LOCK, OWNER, locked
from cls_jax.training.runtime.provenance import provenance

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
_FOLDERS = CHECKPOINTS, "tensorboard", "wandb"
_BEGUN = re.compile(rf"{re.escape(LOCK)}|{re.escape(OWNER)}|\.config\.json\.\d+\.tmp")
"""What a process leaves that is killed before config.json stands: no reason to refuse a folder."""

HOW_NOT_WHAT = frozenset(
    "workdir data_dir log chunk mode over_seeds devices data_on save_every keep restart "  # noqa: SIM905
    "profile compile_cache coordinator num_processes process_id imports figure_format storage "
    "continue_from commit streams tensorboard".split()
)
"""Fields that may differ between two runs of one and the same experiment; the last is of earlier
workdirs, now ``log``."""


def check_workdir(
    workdir: str | Path, config: Mapping[str, Any], same: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """The record of this experiment in ``workdir``, None where there is nothing; writes nothing.

    Where the data lie may have changed: their fingerprints decide.

    Args:
      workdir: a folder, there or not yet there.
      config: every field of the experiment, nested mappings allowed.
      same: what else must be the same, by name: the data, as {name: fingerprint}, the software.

    Raises:
      InputError: it is a file, cannot be written, or holds another experiment or anything else.
    """
    record = check_workdir_is_ours(workdir)
    if record is None:
        return None
    kept = record["config"]
    if _same_data(record, same):
        kept = _with_data(kept, plain(config))
    differences = _differences(kept, plain(config))
    for name, value in (same or {}).items():
        if not (name == "data" and _same_data(record, same)):
            old, new = ({name: given} for given in (record.get(name, value), value))
            differences += _differences(plain(old), plain(new))
    if differences:
        listed = "; ".join(differences[:3])
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(
            f"workdir {workdir} holds another experiment ({listed}{more}); "
            "give another --workdir, or --restart to move that one aside"
        )
    return record


def check_workdir_is_ours(workdir: str | Path) -> dict[str, Any] | None:
    """The record in a workdir, None where there is nothing yet; writes nothing.

    Raises:
      InputError: it is a file, cannot be written, or holds something else than an experiment.
    """
    workdir = check_place(workdir)
    check_no_links(workdir, LOCK, CONFIG, *_FOLDERS)
    record = read_record(workdir)
    for name in _FOLDERS:
        if (workdir / name).exists() and not (workdir / name).is_dir():
            message = f"workdir {workdir}: {name} in it is a file; give another --workdir"
            raise InputError(message)
    return record


def read_record(workdir: Path) -> dict[str, Any] | None:
    """What config.json in a folder says; None where there is no folder, or nothing in it yet.

    Raises:
      InputError: there is something else in it, which would be overwritten.
    """
    try:
        there = sorted(os.listdir(workdir))
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"workdir {workdir}: {error.strerror}; give another --workdir"
        raise InputError(message) from None
    if CONFIG not in there:
        strange = [name for name in there if not _BEGUN.fullmatch(name)]
        if strange:
            more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
            raise InputError(
                f"workdir {workdir} has no {CONFIG} of cls_jax but holds {strange[0]!a}{more}, "
                "which is left as it is; give another --workdir, new or empty"
            )
        return None
    try:
        record = read_json(workdir / CONFIG)
        parts = [record[name] for name in ("config", "versions")]
        parts += [record.get("data", {}), record.get("software", {})]
        whole = all(isinstance(part, dict) for part in parts) and "cls_jax" in record["versions"]
        if not (whole and isinstance(record.get("resumed", []), list)):
            raise ValueError("something else")
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise InputError(
            f"workdir {workdir} holds a {CONFIG} that is not a record of cls_jax; "
            "give another --workdir"
        ) from None
    return record


@contextlib.contextmanager
def claim(
    workdir: str | Path,
    config: Mapping[str, Any],
    same: Mapping[str, Any] | None = None,
    *,
    restart: bool = False,
    wait: float = 0,
) -> Iterator[Path]:
    """The folder, made, with its config.json, for this process alone: a run's, then its report's.

    Whose it is was read and compared once, before anything is made. A folder that holds the same
    experiment is taken again, and its config.json remembers that.

    Args:
      workdir, config, same: as ``check_workdir``.
      restart: an experiment that is there is moved aside first, to the first free name WORKDIR.1,
        WORKDIR.2, ...; nothing is ever deleted.
      wait: seconds in which another process may leave the folder.

    Raises:
      InputError: as ``check_workdir``, the folder could not be made, or another process is using
        it.
    """
    workdir = check_place(workdir)
    if restart and read_record(workdir) is not None:
        here = workdir.absolute()
        if Path.cwd().resolve().is_relative_to(workdir.resolve()):
            raise InputError(f"workdir {workdir} cannot be moved aside from inside it; leave it")
        names = (here.with_name(f"{here.name}.{n}") for n in itertools.count(1))
        aside = next(path for path in names if not os.path.lexists(path))
        with locked(workdir), writing(workdir):
            here.rename(aside)
        print(f"{workdir} was moved to {aside}", file=sys.stderr)
    seen = _version(workdir)
    record = check_workdir(workdir, config, same)
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir, wait):
        if _version(workdir) != seen:  # another process came and went before the lock
            record = check_workdir(workdir, config, same)
        with writing(workdir):
            write_json(workdir / CONFIG, _taken(record, config, same))
        yield workdir


def digest(config: Mapping[str, Any], same: Mapping[str, Any]) -> str:
    """16 hex digits that are the same wherever one and the same experiment runs.

    Args:
      config, same: as ``check_workdir``; data count by their fingerprints, not by their names.
    """
    fixed = {
        name: value
        for name, value in _flat(plain(config)).items()
        if name.split(".")[-1] not in HOW_NOT_WHAT | {"data"}
    }
    words = [fixed, {**plain(same), "data": sorted(map(str, same["data"].values()))}]
    text = json.dumps(words, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _version(workdir: Path) -> tuple[int, ...] | None:
    """Another one after each write of config.json, which replaces the file; None without one."""
    try:
        about = os.stat(workdir / CONFIG)
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def _taken(
    record: Mapping[str, Any] | None, config: Mapping[str, Any], same: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What config.json says from here on: of a new experiment, or of ``record``, taken again."""
    if record is None:
        return {"config": config, **(same or {}), **provenance()}
    kept = record["config"]
    if _same_data(record, same):
        kept = _with_data(kept, plain(config))
    return {**record, "config": kept, "resumed": [*record.get("resumed", []), provenance()]}


def _same_data(record: Mapping[str, Any], same: Mapping[str, Any] | None) -> bool:
    """Whether the fingerprints of all data are those of the record, whatever the data's names."""
    old, new = (sorted(map(str, (one or {}).get("data", {}).values())) for one in (record, same))
    return bool(new) and old == new


def _with_data(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``old``, with what ``new`` says on where the data lie."""

    def one(name: str, value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(new.get(name), Mapping):
            return _with_data(value, new[name])
        return new.get(name, value) if name == "data" else value

    return {name: one(name, value) for name, value in old.items()}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """ "name: old → new" of every field that makes these two experiments, in the new order."""
    old, new = _flat(old), _flat(new)
    return [
        f"{name}: {_json_of(old, name)} → {_json_of(new, name)}"
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


def _json_of(config: Mapping[str, Any], name: str) -> str:
    return json.dumps(config[name], ensure_ascii=False) if name in config else "absent"
