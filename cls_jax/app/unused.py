"""Flags that were typed and would change nothing: each is refused, with the reason."""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from cls_jax.core.errors import InputError
from cls_jax.core.own import NETS

VIEW_FLAGS = "views", "view_padding", "view_flip"
OWN_PERCEPTRON = {"hopsupsup", "den"}
"""Methods whose network has the form of an mlp, whatever --net says."""
OWN_TRANSFORMER = {"dytox"}
"""Methods whose network is a transformer of this --width, whatever --net says."""


def check_used(
    config: Any, typed: Collection[str], methods: Iterable[tuple[str, Mapping[str, Any]]]
) -> None:
    """Raises InputError for a flag of the stream or the network that no method would look at.

    Args:
      config: has ``net``.
      typed: names of the flags on the command line.
      methods: (name, arguments) of all that will run.
    """
    methods = list(methods)
    names = ", ".join(name for name, _ in methods)
    kind = config.net.net
    layered = {
        name: name in OWN_PERCEPTRON or (kind == "mlp" and name not in OWN_TRANSFORMER)
        for name, _ in methods
    }
    if "net" in typed and all(name in OWN_TRANSFORMER for name, _ in methods):
        refuse("net", kind, f"{names} always has a transformer")
    if kind in NETS:
        for flag in ("hidden", "width", "dtype"):
            if flag in typed:
                value = getattr(config.net, flag)
                refuse(flag, value, f"{kind} is a network of your own, whose sizes its file fixes")
    if "hidden" in typed and not any(layered.values()):
        refuse("hidden", config.net.hidden, f"{names} has a {kind}, whose size is --width")
    if "width" in typed and (kind == "lenet" or all(layered.values())):
        remedy = "whose size is fixed" if kind == "lenet" else "whose size is --hidden"
        net = kind if kind == "lenet" else "perceptron"
        refuse("width", config.net.width, f"{names} has a {net}, {remedy}")
    if "net" in typed and kind != "mlp" and all(name in OWN_PERCEPTRON for name, _ in methods):
        refuse("net", kind, f"{names} always has a perceptron")
    if "validation_seed" in typed and config.stream.validation_fraction == 0:
        refuse("validation_seed", config.stream.validation_seed, "nothing is held out")
    for flag in VIEW_FLAGS:
        if flag in typed and not any(_has_views(*one) for one in methods):
            refuse(
                flag,
                getattr(config.stream, flag),
                f"{names} takes no self-supervised views; dualnet and co2l do, and spb_i with "
                "the contrastive learner",
            )


def check_taken(
    typed: Collection[str], flags: Any, used: Collection[Mapping[str, Any]], prefix: str = ""
) -> None:
    """Raises InputError for a flag whose value no method has in the end.

    Args:
      typed: names of the flags on the command line.
      flags: the dataclass that the flags with ``prefix`` set.
      used: arguments of the methods that will run, some with values of their own.
      prefix: "ucir." of --ucir.decays.
    """
    for name in vars(flags):
        value = getattr(flags, name)
        if prefix + name in typed and all(one.get(name) != value for one in used):
            refuse(prefix + name, value, "what will run has no such setting or its own value")


def check_named(flag: str, given: Collection[str], known: Collection[str]) -> None:
    """Raises InputError unless ``given`` are of ``known``, each once, at least one."""
    if not given or len({*given} & {*known}) < len(given):
        raise InputError(
            f"{flag} is {', '.join(given) or 'empty'}; name each once, from {', '.join(known)}"
            + "".join(meant(name, known) for name in given if name not in known)
        )


def unknown(name: str, known: Collection[str]) -> str:
    """What is said of a name that is none of ``known``."""
    return f"{name!r}; it has {', '.join(known)}{meant(name, known)}"


def meant(name: str, known: Collection[str]) -> str:
    """The name that was meant, perhaps, as the end of a sentence; "" if none is near."""
    close = difflib.get_close_matches(name.lower(), known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def check_of(*rows: str) -> Callable[[Any, Collection[str]], None]:
    """The ``check`` of a script whose ``config.method`` are the flags of each of ``rows``."""

    def check(config: Any, typed: Collection[str]) -> None:
        check_used(config, typed, [(row, vars(config.method)) for row in rows])

    return check


def refuse(flag: str, value: object, why: str) -> None:
    """Raises InputError: the flag would do nothing."""
    raise InputError(f"{flag} is {value}, which changes nothing: {why}; leave --{dashed(flag)} out")


def _has_views(name: str, arguments: Mapping[str, Any]) -> bool:
    return name in ("dualnet", "co2l") or arguments.get("learner") == "contrastive"


def dashed(flag: str) -> str:
    """A field as its flag is written."""
    return flag.replace("_", "-")
