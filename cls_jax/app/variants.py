"""Variants and rivals of a method under its flags: what each takes of them, and what none does."""

from collections.abc import Collection, Mapping
from dataclasses import fields, make_dataclass, replace
from typing import Any, NamedTuple

from cls_jax.app.flags import flat
from cls_jax.app.unused import check_named, check_taken, check_used, dashed, refuse
from cls_jax.core.errors import InputError
from cls_jax.methods import METHODS
from cls_jax.methods.prototypes.spb_config import VARIANTS as SPB
from cls_jax.methods.prototypes.spb_config import variants

FLAGS = {
    name: make_dataclass(
        f"{name}_flags",
        [("config", flat(row.config), row.config()), ("hyper", flat(row.hyper), row.hyper())],
        frozen=True,
    )
    for name, row in METHODS.items()
}
"""Row of the table of methods -> the flags of its Config and Hyper together."""

SIZED = [name for name, row in METHODS.items() if hasattr(row.config(), "memory_size")]
"""Rows of methods that have a memory."""

UCIR: Mapping[str, Mapping[str, int]] = {
    "ucir": {},
    "ucir_no_exemplars": {"exemplars_per_class": 0},
}
SPB_AND_UCIR = (*SPB, *UCIR)

Changes = tuple[str, Mapping[str, Any], Mapping[str, Any]]
"""Row of the table of methods; what replaces the flags in its Config, and in its Hyper."""


def of_all(memory_size: int, **replay_size: int) -> dict[str, Any]:
    """FLAGS of all methods that have a memory, as large as it says; replay sizes by row."""
    own = {name: {"memory_size": memory_size} for name in SIZED}
    own |= {name: {**own[name], "replay_size": size} for name, size in replay_size.items()}
    return {name: FLAGS[name](METHODS[name].config(**numbers)) for name, numbers in own.items()}


class Variant(NamedTuple):
    """A row of the table of methods with its Config and Hyper."""

    row: str
    config: Any
    hyper: Any

    @property
    def longer(self) -> bool:
        """Whether it passes over each task as often as over the first."""
        return self.row == "ucir" or getattr(self.config, "joint", False)


def fitted(table: Mapping[str, Changes], config: Any) -> dict[str, Variant]:
    """Label -> the variant, with the flags that it shares and its own values in their place.

    Args:
      table: label -> changes.
      config: has ``variants``, labels of the table, and the flags ``method`` and ``hyper``.

    Raises:
      InputError: for no label, or one twice.
    """
    check_named("variants", config.variants, table)
    found = {}
    for label in config.variants:
        row, *changes = table[label]
        kinds = zip(METHODS[row][:2], (config.method, config.hyper), changes, strict=True)
        found[label] = Variant(row, *(_filled(*each) for each in kinds))
    return found


def _filled(kind: type, flags: Any, changes: Mapping[str, Any]) -> Any:
    shared = {f.name: getattr(flags, f.name) for f in fields(kind) if hasattr(flags, f.name)}
    return kind(**{**shared, **changes})


def spb_and_ucir(config: Any) -> dict[str, Variant]:
    """Label -> the variant of SPB or of UCIR, in the order of ``config.variants``.

    Args:
      config: has ``variants``, of SPB_AND_UCIR or "all" alone, and the flags ``method`` and
        ``hyper`` of SPB, ``ucir`` and ``ucir_rates``.

    Raises:
      InputError: for an unknown label, one twice, or none.
    """
    labels = SPB_AND_UCIR if config.variants == ("all",) else config.variants
    check_named("variants", labels, SPB_AND_UCIR)
    own = variants(config.method, labels, others=tuple(UCIR))
    found = {label: Variant("spb", one, config.hyper) for label, one in own.items()}
    found |= {
        label: Variant("ucir", replace(config.ucir, **UCIR[label]), config.ucir_rates)
        for label in labels
        if label in UCIR
    }
    return {label: found[label] for label in labels}


def check_compared(config: Any, typed: Collection[str]) -> None:
    """Raises InputError for methods that are none, and for a typed flag that none of them takes.

    Args:
      config: has ``net``, ``stream``, ``methods``, FLAGS of each by its row, and ``memory_size``,
        which holds for all of them if it is not None.
      typed: names of the flags on the command line, "er.memory_size" of method er.
    """
    check_named("methods", config.methods, METHODS)
    names = ", ".join(config.methods)
    own = {name: getattr(config, name).config for name in config.methods}
    for flag in sorted(flag for flag in typed if "." in flag):
        row, _, field = flag.rpartition(".")
        if row not in own:
            raise InputError(f"--{dashed(flag)} changes nothing: methods is {names}; leave it out")
        if field == "memory_size" and config.memory_size is not None:
            raise InputError(
                f"memory_size is {config.memory_size} for every method and {flag} "
                f"{own[row].memory_size}; give --memory-size or --{dashed(flag)}, not both"
            )
    if config.memory_size is not None and not {*own} & {*SIZED}:
        refuse("memory_size", config.memory_size, f"{names} has no memory")
    check_used(config, typed, own.items())


def check_variants(
    config: Any, typed: Collection[str], found: Mapping[str, Variant], rows: Mapping[str, str]
) -> None:
    """Raises InputError for a typed flag of a Config or Hyper that no variant has in the end.

    Args:
      config: of the script; has ``stream`` and ``net``.
      typed: names of the flags on the command line.
      found: the variants that will run.
      rows: a field of ``config`` that holds a Config or Hyper -> the row that takes it, "" for any.
    """
    check_used(config, typed, [(one.row, one.config) for one in found.values()])
    for field, row in rows.items():
        flags = getattr(config, field)
        takers = [one for one in found.values() if row in ("", one.row)]
        kinds = [one.hyper if field in HYPERS else one.config for one in takers]
        check_taken(typed, flags, kinds, "" if field in FLAT else f"{field}.")
    long = all(one.longer for one in found.values())
    if "epochs" in typed and config.stream.base_epochs is not None and long:
        refuse("epochs", config.stream.epochs, "these variants make --base-epochs passes")


HYPERS = {"hyper", "ucir_rates"}
FLAT = {"method", "hyper"}
