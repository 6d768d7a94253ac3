"""What a run will hold, in bytes, estimated before anything is made; too much names its flag."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import check_bytes, check_schedule
from cls_jax.methods.base import Method
from cls_jax.streams.stream import Stream
from cls_jax.training.run import abstract_run, shapes_of

LARGEST = 2**31 - 1
"""Most places of an array's axis."""


def check_held(method: Method, stream: Stream, words: Mapping[str, Any], num_trials: int) -> None:
    """Raises InputError if the states of all trials need more memory than there is.

    Args:
      method, stream: what runs.
      words: the Learner's recipe, whose largest number of the right kind is named.
      num_trials: runs that are held at once.
    """
    for part in ("arguments", "net", "stream"):
        for name, value in _numbers(words[part]):
            if value > LARGEST:
                raise InputError(f"{name} is {value}; give at most {LARGEST}")
    examples = len(stream.source.train.y)
    for phase in method.phases:
        if phase.epochs is not None:
            check_schedule(_flag(words, phase.epochs, "epochs"), phase.epochs, examples)
    made = jax.tree_util.tree_leaves_with_path(abstract_run(method, shapes_of(stream)))
    kept = [(_bytes(leaf), jax.tree_util.keystr(path)) for path, leaf in made]
    name, value = _culprit(words, max(kept)[1])
    runs = f" in {num_trials} runs" if num_trials > 1 else ""
    check_bytes(
        f"{name} {value} of {method.name}{runs}",
        num_trials * sum(size for size, _ in kept),
        f"give a smaller {name}" + (" or fewer runs" if runs else ""),
    )


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    width = 8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
    return width * int(np.prod([int(n) for n in leaf.shape], dtype=object))


def _culprit(words: Mapping[str, Any], path: str) -> tuple[str, int]:
    """The flag that makes the leaf at ``path`` large, and its value."""
    own = _numbers(words["arguments"])
    if "matrix" in path:
        found = [("tasks", int(words["num_tasks"]))]
    elif "memory" in path and any("memory" in name for name, _ in own):
        found = [one for one in own if "memory" in one[0]]
    else:
        net = "hidden" if words["net"]["net"] == "mlp" else "width"
        found = [one for one in _numbers(words["net"]) if one[0] == net]
        found += [one for one in own if "memory" not in one[0]]
    return max(found, key=lambda one: one[1])


def _numbers(fields: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(name, largest whole number) of every field that holds one."""
    found = []
    for name, value in fields.items():
        each: Sequence[Any] = value if isinstance(value, (tuple, list)) else (value,)
        whole = [one for one in each if isinstance(one, int) and not isinstance(one, bool)]
        found += [(name, max(whole))] if whole else []
    return found


def _flag(words: Mapping[str, Any], value: int, ending: str) -> str:
    """The argument of the method that ends so and has that value."""
    names = [name for name, one in words["arguments"].items() if one == value]
    return next((name for name in names if name.endswith(ending)), ending)
