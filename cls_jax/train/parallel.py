"""Where a group of lanes is computed: one lane, lanes side by side in one program, one a device."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cls_jax.core import sharding as meshes
from cls_jax.core.types import PyTree
from cls_jax.data.dataset import Examples


class Placement(NamedTuple):
    """How functions of one lane become compiled functions of a group of lanes.

    Attributes:
      lanes: "one": the group is one lane and has no lane axis; "vmap": the first axis of every leaf
        is the lane, all in one program; "devices": so too, each lane on a device of its own
        (``jax.pmap``, no communication): the bits of single runs for dense networks, equal to
        rounding for convolutions, whose layouts XLA may choose otherwise there.
      mesh: the devices over which "one" splits its batches; None: the first device.
    """

    lanes: Literal["one", "vmap", "devices"] = "one"
    mesh: Mesh | None = None

    @property
    def stacked(self) -> bool:
        """Whether leaves have a lane axis."""
        return self.lanes != "one"

    def compile(
        self, fn: Callable[..., PyTree], in_axes: Sequence[int | None], donate: tuple[int, ...] = ()
    ) -> Callable[..., PyTree]:
        """``fn`` of one lane, compiled for the group.

        Args:
          fn: pure.
          in_axes: 0 for what each lane has its own of, None for what all share, DATA for examples
            that ``share`` placed.
          donate: positions whose buffers are given up.
        """
        axes = tuple(self._data_axis if axis == DATA else axis for axis in in_axes)
        if self.lanes == "devices":
            return jax.pmap(fn, in_axes=axes, donate_argnums=donate)
        if self.lanes == "vmap":
            return jax.jit(jax.vmap(fn, in_axes=axes), donate_argnums=donate)
        if self.mesh is None:
            return jax.jit(fn, donate_argnums=donate)
        compiled = jax.jit(fn, donate_argnums=donate, out_shardings=meshes.whole(self.mesh))

        def on_mesh(*arguments: PyTree) -> PyTree:
            with jax.set_mesh(self.mesh):
                return compiled(*arguments)

        return on_mesh

    @property
    def _data_axis(self) -> int | None:
        return 0 if self.lanes == "devices" else None

    def share(self, data: Examples, num_lanes: int) -> Examples:
        """Examples that all lanes read, on the device; one copy a device."""
        if self.lanes == "devices":
            copies = Examples(*(np.broadcast_to(leaf, (num_lanes, *leaf.shape)) for leaf in data))
            return jax.device_put(copies, _one_a_device(num_lanes))
        if self.mesh is None:
            return Examples(*map(jnp.asarray, data))
        sharding = meshes.whole(self.mesh)
        return Examples(
            *(
                jax.make_array_from_callback(leaf.shape, sharding, lambda where, x=leaf: x[where])
                for leaf in map(np.asarray, data)
            )
        )

    def sharding(self) -> jax.sharding.Sharding:
        """Of one lane's state as it is read back from disk."""
        if self.mesh is not None:
            return meshes.whole(self.mesh)
        return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def stack(self, lanes: Sequence[PyTree]) -> PyTree:
        """States of single lanes, as read back from disk, as the group's."""
        group = lanes[0]
        if self.stacked:
            group = jax.tree.map(lambda *leaves: jnp.stack(leaves), *lanes)
        if self.lanes == "devices":
            return jax.device_put(group, _one_a_device(len(lanes)))
        return jax.tree.map(_free, group) if self.mesh is None else group

    def unstack(self, group: PyTree, num_lanes: int) -> list[PyTree]:
        """The group's state as those of single lanes."""
        if not self.stacked:
            return [group]
        return [jax.tree.map(lambda leaf, i=i: leaf[i], group) for i in range(num_lanes)]


def _free(leaf: jax.Array) -> jax.Array:
    """``leaf``, bound to no device: what is bound has programs compiled anew for it."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_free(jax.random.key_data(leaf)))
    return jnp.array(np.asarray(leaf))


def _one_a_device(num_lanes: int) -> jax.sharding.Sharding:
    """Of leaves whose first axis is the lane."""
    devices = Mesh(np.asarray(jax.local_devices()[:num_lanes]), ("lanes",))
    return jax.NamedSharding(devices, jax.P("lanes"))


DATA = -1
"""In ``in_axes``: examples that ``Placement.share`` placed."""
