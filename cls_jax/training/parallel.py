"""Where a group of trials is computed: one alone, side by side in one program, one a device."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cls_jax.core import sharding as meshes
from cls_jax.core.types import PyTree
from cls_jax.data.dataset import Split
from cls_jax.nets.convolution import side_by_side
from cls_jax.training.parts import QUICKLY, in_parts


class Examples(NamedTuple):
    """What a compiled program reads, on the device.

    Attributes:
      x, y: examples that all trials share, as in Split.
      contexts: of the schedule of each trial, see there.
    """

    x: jax.Array
    y: jax.Array
    contexts: PyTree = ()


class Parallelism(NamedTuple):
    """How functions of one trial become compiled functions of a group of trials.

    Attributes:
      trials: "one": the group is one trial and has no trial axis; "vmap": the first axis of every
        leaf is the trial, all in one program; "devices": so too, each trial on a device of its own
        (``jax.pmap``, no communication): the bits of single runs for dense networks, equal to
        rounding for convolutions, whose layouts XLA may choose otherwise there.
      mesh: the devices over which "one" splits its batches; None: the first device.
      convolutional: whether the functions convolve, which XLA compiles well for a CPU only if told.
    """

    trials: Literal["one", "vmap", "devices"] = "one"
    mesh: Mesh | None = None
    convolutional: bool = False

    @property
    def stacked(self) -> bool:
        """Whether leaves have a trial axis."""
        return self.trials != "one"

    def compile(
        self,
        fn: Callable[..., PyTree],
        in_axes: Sequence[int | None],
        donate: tuple[int, ...] = (),
        *,
        once: bool = False,
    ) -> Callable[..., PyTree]:
        """``fn`` of one trial, compiled for the group.

        Args:
          fn: pure.
          in_axes: 0 for what each trial has its own of, None for what all share, DATA for Examples.
          donate: positions whose buffers are given up.
          once: it runs once a trial, so on a CPU it is compiled quickly rather than well.
        """
        axes = tuple(self._data_axes if axis == DATA else axis for axis in in_axes)
        if self.trials == "devices":
            return jax.pmap(fn, in_axes=axes, donate_argnums=donate)
        options: dict[str, bool | int | str] = {}
        if jax.default_backend() == "cpu":
            options = {**(QUICKLY if once else {}), **(by_eigen() if self.convolutional else {})}
        if self.trials == "vmap":
            fn, how = side_by_side(fn)
            fn, options = jax.vmap(fn, in_axes=axes), {**options, **how}
        if self.mesh is None:
            return in_parts(fn, donate, options or None)
        compiled = jax.jit(
            fn,
            donate_argnums=donate,
            out_shardings=meshes.whole(self.mesh),
            compiler_options=options or None,
        )

        def on_mesh(*arguments: PyTree) -> PyTree:
            with jax.set_mesh(self.mesh):
                return compiled(*arguments)

        return on_mesh

    @property
    def _data_axes(self) -> PyTree:
        shared = 0 if self.trials == "devices" else None
        return Examples._make((shared, shared, 0))

    def put_data(self, data: Split, num_trials: int) -> Examples:
        """Examples that all trials read, on the device; one copy a device."""
        if self.trials == "devices":
            copies = tuple(np.broadcast_to(leaf, (num_trials, *leaf.shape)) for leaf in data)
            return Examples(*jax.device_put(copies, _one_a_device(num_trials)))
        return Examples(*map(self._put, data))

    def put_contexts(self, trials: Sequence[PyTree]) -> PyTree:
        """The contexts of each trial's schedule, on the device."""
        if not self.stacked:
            return jax.tree.map(self._put, trials[0])
        group = jax.tree.map(lambda *leaves: np.stack(leaves), *trials)
        if self.trials == "devices":
            return jax.device_put(group, _one_a_device(len(trials)))
        return jax.tree.map(jnp.asarray, group)

    def _put(self, leaf: np.ndarray) -> jax.Array:
        if self.mesh is None:
            return jnp.asarray(leaf)
        sharding, leaf = meshes.whole(self.mesh), np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda where: leaf[where])

    def sharding(self) -> jax.sharding.Sharding:
        """Of one trial's state as it is read back from disk."""
        if self.mesh is not None:
            return meshes.whole(self.mesh)
        return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def stack(self, trials: Sequence[PyTree]) -> PyTree:
        """States of single trials, as read back from disk, as the group's."""
        group = trials[0]
        if self.stacked:
            group = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trials)
        if self.trials == "devices":
            return jax.device_put(group, _one_a_device(len(trials)))
        return jax.tree.map(_free, group) if self.mesh is None else group

    def unstack(self, group: PyTree, num_trials: int) -> list[PyTree]:
        """The group's state as those of single trials."""
        if not self.stacked:
            return [group]
        return [jax.tree.map(lambda leaf, i=i: leaf[i], group) for i in range(num_trials)]


def _free(leaf: jax.Array) -> jax.Array:
    """``leaf``, bound to no device: what is bound has programs compiled anew for it."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_free(jax.random.key_data(leaf)))
    return jnp.array(np.asarray(leaf))


def _one_a_device(num_trials: int) -> jax.sharding.Sharding:
    """Of leaves whose first axis is the trial."""
    devices = Mesh(np.asarray(jax.local_devices()[:num_trials]), ("trials",))
    return jax.NamedSharding(devices, jax.P("trials"))


BY_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
"""Options of XLA under which Eigen convolves, and YNN, its default in JAX 0.10, only sums."""


@cache
def by_eigen() -> dict[str, str]:
    """BY_EIGEN where that was found to pay: on x86 with AVX2 and without AVX-512, under Linux.

    There YNN's weight gradients gain nothing from a second core: the step of a ResNet-18 of width
    16, batch 32, takes 230 ms with it and 115 without on two cores (JAX 0.12: 150 and 115).
    Perceptrons' products stay with YNN, which is the faster there.
    """
    try:
        known = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return {}
    return BY_EIGEN if "avx2" in known and "avx512f" not in known else {}


DATA = -1
"""In ``in_axes``: Examples, as a Loader hands them over."""
