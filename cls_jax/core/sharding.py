"""The batch over several devices: one name for the axis, one hint for the compiler.

A run is data parallel by sharding alone. The program is that of one device; XLA splits the work of
every network's forward and backward pass along the batch and sums the gradients. State and memory
are whole on every device, so there is one logical memory and each decision is made once.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cls_jax.core.types import Array, PyTree

DATA = "data"


def data_mesh(num_devices: int) -> Mesh:
    """A mesh of the first ``num_devices`` devices of all processes, with Auto axes."""
    devices = np.asarray(jax.devices()[:num_devices])
    return Mesh(devices, (DATA,), axis_types=(AxisType.Auto,))


def whole(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device of ``mesh`` has all of."""
    return NamedSharding(mesh, PartitionSpec())


def spread(x: Array) -> Array:
    """``x`` [b, ...], split along the batch if the program runs on a data mesh that divides b.

    A hint: values are the same with and without it, up to the rounding of sums.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if DATA not in mesh.axis_names or x.shape[0] % mesh.shape[DATA]:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(DATA))


def gathered(tree: PyTree) -> PyTree:
    """``tree``, whole on every device if the program runs on a data mesh."""
    if DATA not in jax.sharding.get_abstract_mesh().axis_names:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())
