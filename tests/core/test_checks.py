"""Checks of what the user gave."""

from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

from cls_jax.core.checks import check_literal, check_literals
from cls_jax.core.errors import InputError

MUST = "{name} must be {either}, got {value!r}"


class Asked(NamedTuple):
    """Literals alone, beside None, and a field without one."""

    mode: Literal["loop", "scan"] = "loop"
    views: Literal["a", "b"] | None = None
    chunk: int | None = None


def asked(mode: Literal["loop", "scan"]) -> None:
    """The same in a function's signature."""


def test_values_of_a_literal_pass():
    for good in (Asked(), Asked("scan", "b", 3), Asked(chunk="anything")):
        check_literals(Asked, good._asdict(), MUST)
    check_literals(asked, {"mode": "loop"}, MUST)


@pytest.mark.parametrize("value", ["fast", "", None, 1, ["loop"], {"loop"}, b"loop", np.arange(2)])
def test_anything_else_is_told(value: Any):
    for of in (Asked, asked):
        with pytest.raises(InputError) as refused:
            check_literals(of, {"mode": value}, MUST)
        assert str(refused.value) == f"mode must be 'loop' or 'scan', got {value!r}"
    with pytest.raises(InputError, match="views must be 'a' or 'b', got 'c'"):
        check_literals(Asked, {"views": "c"}, MUST)


def test_the_sentence_may_be_the_callers():
    with pytest.raises(InputError, match=r"^mode is 'x'; use one of loop, scan$"):
        check_literal("mode", "x", Literal["loop", "scan"])
    with pytest.raises(InputError, match=r"^rotations is 3; use one of 1, 2, 4$"):
        check_literal("rotations", 3, Literal[1, 2, 4])
    check_literal("rotations", 2, Literal[1, 2, 4])
    check_literal("order", (2, 1), Literal["given"] | tuple[int, ...])  # another kind may be
    with pytest.raises(InputError, match=r"^mode: \('loop', 'scan'\), not 'x'$"):
        check_literals(Asked, {"mode": "x"}, "{name}: {choices}, not {value!r}")
