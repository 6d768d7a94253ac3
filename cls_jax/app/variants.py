"""Variants and rivals of a method under its flags: what each takes of them, and what none does."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from cls_jax.app.method_flags import flags_of, shared, takes_optimizer, with_memory
from cls_jax.app.published.spb_variants import VARIANTS as SPB
from cls_jax.app.unused import check_named, check_taken, check_used, dashed, refuse
from cls_jax.core.errors import InputError
from cls_jax.methods import METHODS, optimizer, signature

UCIR: Mapping[str, Mapping[str, int]] = {
    "ucir": {},
    "ucir_no_exemplars": {"exemplars_per_class": 0},
}
SPB_AND_UCIR = (*SPB, *UCIR)

Changes = tuple[str, Mapping[str, Any]]
"""Name of a method; what replaces the flags among its arguments."""


_GROUPINGS: Mapping[str, Mapping[str, str]] = {
    "similarity": {},
    "random": {"grouping": "random"},
    "snapshots": {"grouping": "snapshots"},
    "told": {"grouping": "told"},
    "conf": {"reference": "conf"},
    "soft": {"reference": "soft"},
    "literal": {"reference": "literal"},
    "rates": {"update": "similarity"},
}
_CLSER = {"warmup": "updates", "stable_rate": 0.3, "plastic_rate": 0.9}
_MASKS: Mapping[str, Mapping[str, Any]] = {
    "masks": {},
    "masks told": {"grouping": "told"},
    "masks random": {"grouping": "random"},
    "masks soft": {"grouping": "told", "foreign_factor": 0.3},
    **{
        kind: {"grouping": "told", "foreign_factor": 1.0, "speed": kind}
        for kind in ("fast", "slow", "mid", "flat", "shuffle")
    },
}
SIMILARITY: dict[str, Changes] = {
    **{label: ("group_ema", {**own, "told_at_test": True}) for label, own in _GROUPINGS.items()},
    **{label: ("clser_masked", {**_CLSER, **own}) for label, own in _MASKS.items()},
    "clser": ("clser", _CLSER),
    **{"er": ("er", {}), "er matched": ("er", {})},
    **{"derpp": ("derpp", {}), "derpp matched": ("derpp", {})},
}
"""A copy a group, its choices and controls; masks of groups, speeds of their channels; rivals."""


def of_all(memory_size: int, **replay_size: int) -> dict[str, Any]:
    """Flags of all methods that have a memory, as large as it says; replay sizes by name."""
    own = {name: {"memory_size": memory_size} for name in with_memory()}
    own |= {name: {**own[name], "replay_size": size} for name, size in replay_size.items()}
    return {name: flags_of(name)(**numbers) for name, numbers in own.items()}


class Variant(NamedTuple):
    """A method's name with its arguments."""

    method: str
    arguments: Mapping[str, Any]

    @property
    def longer(self) -> bool:
        """Whether it passes over each task as often as over the first."""
        return self.method == "ucir" or self.arguments.get("joint", False)


def fitted(table: Mapping[str, Changes], config: Any) -> dict[str, Variant]:
    """Label -> the variant, with the flags that it shares and its own values in their place.

    Args:
      table: label -> changes.
      config: has ``variants``, labels of the table, and the flags ``method``.

    Raises:
      InputError: for no label, or one twice.
    """
    check_named("variants", config.variants, table)
    flags = asdict(config.method)
    return {
        label: Variant(name, {**shared(name, flags), **changes})
        for label, (name, changes) in ((label, table[label]) for label in config.variants)
    }


def chosen(config: Any) -> Variant:
    """The method ``config.variant`` with those of the flags ``config.method`` that it takes."""
    return Variant(config.variant, shared(config.variant, asdict(config.method)))


def check_chosen(config: Any, typed: Collection[str]) -> None:
    """Raises InputError for a typed flag that the chosen method does not take."""
    one = chosen(config)
    check_used(config, typed, [one])
    check_taken(typed, config.method, [one.arguments])


def spb_and_ucir(config: Any) -> dict[str, Variant]:
    """Label -> the variant of SPB or of UCIR, in the order of ``config.variants``.

    A control's own value gives way where a flag departs from SPB's default.

    Args:
      config: has ``variants``, of SPB_AND_UCIR or "all" alone, and the flags ``method`` of SPB and
        ``ucir``.

    Raises:
      InputError: for an unknown label, one twice, or none.
    """
    labels = SPB_AND_UCIR if config.variants == ("all",) else config.variants
    check_named("variants", labels, SPB_AND_UCIR)
    flags, ucir, usual = asdict(config.method), asdict(config.ucir), signature("spb").arguments

    def of(label: str) -> Variant:
        if label in UCIR:
            return Variant("ucir", {**ucir, **UCIR[label]})
        own = {k: v for k, v in SPB[label].items() if flags[k] == usual[k].default}
        return Variant("spb", {**flags, **own})

    return {label: of(label) for label in labels}


def check_compared(config: Any, typed: Collection[str]) -> None:
    """Raises InputError for methods that are none, a typed flag that none of them takes, or an
    optimizer that not all of them take.

    Args:
      config: has ``net``, ``stream``, ``optimizer``, ``methods``, the flags of each by its name,
        and ``memory_size``, which holds for all of them if it is not None.
      typed: names of the flags on the command line, "er.memory_size" of method er.
    """
    check_named("methods", config.methods, METHODS)
    names = ", ".join(config.methods)
    own = {name: asdict(getattr(config, name)) for name in config.methods}
    for flag in sorted(flag for flag in typed if "." in flag):
        name, _, field = flag.rpartition(".")
        if name not in own:
            raise InputError(f"--{dashed(flag)} changes nothing: methods is {names}; leave it out")
        if field == "memory_size" and config.memory_size is not None:
            raise InputError(
                f"memory_size is {config.memory_size} for every method and {flag} "
                f"{own[name]['memory_size']}; give --memory-size or --{dashed(flag)}, not both"
            )
    if config.memory_size is not None and not {*own} & {*with_memory()}:
        refuse("memory_size", config.memory_size, f"{names} has no memory")
    fixed = [name for name in config.methods if not takes_optimizer(name)]
    if fixed and optimizer.chosen(config.optimizer):
        optimizer.refuse(fixed, config.optimizer)
    check_used(config, typed, own.items())


def check_variants(
    config: Any, typed: Collection[str], found: Mapping[str, Variant], takers: Mapping[str, str]
) -> None:
    """Raises InputError for a typed flag of a method that no variant has in the end.

    Args:
      config: of the script; has ``stream`` and ``net``.
      typed: names of the flags on the command line.
      found: the variants that will run.
      takers: a field of ``config`` that holds flags -> the method that takes them, "" for any.
    """
    check_used(config, typed, list(found.values()))
    for field, method in takers.items():
        used = [one.arguments for one in found.values() if method in ("", one.method)]
        check_taken(typed, getattr(config, field), used, "" if field == "method" else f"{field}.")
    long = all(one.longer for one in found.values())
    if "epochs" in typed and config.stream.base_epochs is not None and long:
        refuse("epochs", config.stream.epochs, "these variants make --base-epochs passes")
