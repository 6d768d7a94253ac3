"""The words from which a saved method is built again: recipe.json, beside its saves."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.experiment import StreamConfig, fit_method
from cls_jax.itinerary import lane_name
from cls_jax.methods import METHODS
from cls_jax.methods.base import Method
from cls_jax.nets.choose import NetConfig
from cls_jax.program import birth
from cls_jax.types import InputError, PyTree


class Recipe(NamedTuple):
    """What a recipe.json says: what is read back, and how.

    Attributes:
      lanes: name of a lane -> (method with the value of a sweep, seed).
      method: its pure functions.
      like: one lane's Run, as shapes, dtypes and shardings.
      stream: the flags of its stream.
      shape: of one example, raw.
      num_classes: of the stream.
      dtype: of the raw examples.
    """

    lanes: Mapping[str, tuple[str, int]]
    method: Method
    like: PyTree
    stream: StreamConfig
    shape: tuple[int, ...]
    num_classes: int
    dtype: str


def read_recipe(path: Path) -> Recipe:
    """Everything that recipe.json says.

    Raises:
      InputError: it is not one that this version can follow.
    """
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        if recipe["row"] in METHODS:
            return _followed(recipe)
    except Exception as error:  # a file of someone else's may hold anything
        raise InputError(
            f"{path} is not a recipe that this version of cls_jax can follow "
            f"({type(error).__name__}: {' '.join(str(error).split())[:120]}); read it with the "
            "version that saved it"
        ) from error
    raise InputError(
        f"{path}: method {recipe['row']!r} is unknown to this version of cls_jax; read it with the "
        "version that saved it"
    )


def _followed(recipe: Mapping[str, Any]) -> Recipe:
    row, shape = METHODS[recipe["row"]], tuple(recipe["shape"])
    stream = StreamConfig(**_tuples(recipe["stream"]))
    sizes = recipe["num_classes"], recipe["num_tasks"]
    config, net = row.config(**_tuples(recipe["method"])), NetConfig(**_tuples(recipe["net"]))
    method = fit_method(recipe["row"], config, stream, net, shape, sizes)
    hyper = jax.tree.map(jnp.float32, row.hyper(**recipe["hyper"]))
    newborn = partial(birth, method, shape, recipe["dtype"], (stream.batch_size, sizes[1]))
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        jax.eval_shape(newborn, hyper, np.uint32(0)),
    )
    labels = recipe["sweep"]
    lanes = {
        lane_name(seed, value, len(labels)): (f"{recipe['name']} {label}".strip(), seed)
        for value, label in enumerate(labels)
        for seed in recipe["seeds"]
    }
    return Recipe(lanes, method, like, stream, shape, sizes[0], recipe["dtype"])


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
