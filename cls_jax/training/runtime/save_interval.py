"""How often a run is saved; needs no JAX."""

import re
from typing import NamedTuple

from cls_jax.core.errors import InputError


class Interval(NamedTuple):
    """How often to save; both None is never."""

    seconds: float | None = None
    steps: int | None = None


_UNITS = {"s": 1, "m": 60, "h": 3600}


def interval(text: str) -> Interval:
    """What ``--save-every`` says: "90s", "5m", "1h", "200steps" or "never".

    Raises:
      InputError: anything else.
    """
    if text == "never":
        return Interval()
    if found := re.fullmatch(r"(\d+(?:\.\d+)?) ?([smh])", text):
        return Interval(seconds=float(found[1]) * _UNITS[found[2]])
    if (found := re.fullmatch(r"(\d+) ?steps?", text)) and int(found[1]):
        return Interval(steps=int(found[1]))
    raise InputError(f"save_every is {text!r}; give e.g. 60s, 5m, 1h, 200steps or never")
