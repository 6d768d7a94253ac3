"""The dataclass of a method's rates: made without JAX, a pytree to it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from cls_jax.core.hyper import hyper
from cls_jax.methods import METHODS


@hyper
class Rates:
    """Two numbers."""

    learning_rate: float = 0.1
    weight_decay: float = 0.0


def test_its_fields_are_leaves_under_their_names():
    found = jax.tree_util.tree_leaves_with_path(Rates())
    assert [(jax.tree_util.keystr(path), leaf) for path, leaf in found] == [
        (".learning_rate", 0.1),
        (".weight_decay", 0.0),
    ]
    doubled = jax.jit(lambda rates: jax.tree.map(lambda rate: 2 * rate, rates))(Rates())
    assert isinstance(doubled, Rates)
    assert doubled.learning_rate == jnp.float32(0.2)


def test_it_is_a_frozen_dataclass_with_replace():
    rates = Rates().replace(weight_decay=0.5)
    assert rates == Rates(0.1, 0.5) != Rates()
    assert hash(rates) == hash(Rates(0.1, 0.5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        rates.learning_rate = 1.0
    with pytest.raises(TypeError, match="no_such_rate"):
        rates.replace(no_such_rate=1.0)


@pytest.mark.parametrize("name", METHODS)
def test_every_hyper_of_the_table_is_data(name):
    one = METHODS[name].hyper()
    names = [field.name for field in dataclasses.fields(one)]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(one)]
    assert paths == [f".{name}" for name in names]


def test_every_row_of_the_table_has_its_builder():
    from cls_jax.methods.builders import BUILDERS

    assert list(BUILDERS) == list(METHODS)
