"""What DER (expandable) keeps: a stack of frozen extractors beside the newest, and heads over all.

Source: Yan, Xie and He 2021 (CVPR; arXiv 2103.16788); Rhyssiyan/DER-ClassIL.pytorch,
inclearn/convnet/network.py.
"""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.memory import Memory
from cls_jax.core.types import Array, Trainable, Variables
from cls_jax.methods.architecture.channel_masks import numbers_left
from cls_jax.methods.heads import index_tree
from cls_jax.nets.base import ApplyFn

NEVER = 2**31 - 1
"""The number of no task."""


class StackState(struct.PyTreeNode):
    """What DER carries from step to step; there are places for E extractors.

    Attributes:
      extractor: F_t, the newest.
      classifier: params {"weights": W float32[C, E, d], "auxiliary": A float32[C + 1, d]}; of
        W[:, j] those of a place j not in use meet features of zero, of A the first row is "old".
      frozen: F_1 to F_{t-1}, leaves [max(E - 1, 1), ...].
      memory: the exemplars.
      balanced: what the phase "classifier" learns from, slots {x, y}.
      came: int32[C] the task that each class came with; NEVER: not seen so far.
      task: int32[] the task being learned, or the last one.
      task_size: int32[] examples of this task that are learned from.
      epoch: int32[] of the last step of the phase "representation".
      step: int32[] made in this pass of "representation", or in the phase "classifier".
    """

    extractor: Trainable
    classifier: Trainable
    frozen: Variables
    memory: Memory
    balanced: Memory
    came: Array
    task: Array
    task_size: Array
    epoch: Array
    step: Array

    @property
    def place(self) -> Array:
        """int32[], where F_t stands among the E places."""
        return jnp.minimum(self.task, self.classifier.vars.params["weights"].shape[1] - 1)

    @property
    def past(self) -> Array:
        """bool[C] classes of earlier tasks."""
        return self.came < self.task

    @property
    def seen(self) -> Array:
        """bool[C] classes of earlier tasks and of this one."""
        return self.came <= self.task


def first_state(
    vars: Variables, sizes: tuple[int, int, int], memory: Memory, balanced: Memory
) -> StackState:
    """Before anything was learned; the optimizers' states are to be made.

    Args:
      vars: F_1.
      sizes: C, E and d.
      memory, balanced: empty ones.
    """
    classes, places, size = sizes
    dtype = jax.tree.leaves(vars.params)[0].dtype
    heads = {"weights": (classes, places, size), "auxiliary": (classes + 1, size)}
    heads = {name: jnp.zeros(shape, dtype) for name, shape in heads.items()}
    spare = max(places - 1, 1)
    return StackState(
        extractor=Trainable(vars, None),
        classifier=Trainable(Variables(params=heads, stats={}), None),
        frozen=jax.tree.map(lambda leaf: jnp.zeros((spare, *leaf.shape), leaf.dtype), vars),
        memory=memory,
        balanced=balanced,
        came=jnp.full(classes, NEVER, jnp.int32),
        task=jnp.int32(0),
        task_size=jnp.int32(0),
        epoch=jnp.int32(0),
        step=jnp.int32(0),
    )


def features_before(extract: ApplyFn, state: StackState, x: Array) -> Array:
    """What F_1 to F_{t-1} see, float32[b, E, d], zero elsewhere; only they are run.

    Args:
      extract: features float32[b, d] of one extractor.
      state: has the extractors.
      x: float32[b, ...] as a network takes it.
    """

    def features(j: Array) -> Array:
        return extract(index_tree(state.frozen, j), x, train=False)[0]

    shape, places = (
        jax.eval_shape(features, state.place),
        state.classifier.vars.params["weights"].shape[1],
    )
    none = jnp.zeros((shape.shape[0], places, shape.shape[1]), shape.dtype)
    return jax.lax.fori_loop(0, state.place, lambda j, u: u.at[:, j].set(features(j)), none)


def all_features(extract: ApplyFn, state: StackState, x: Array) -> Array:
    """What F_1 to F_t see as they answer, float32[b, E, d], zero elsewhere.

    Args:
      extract, state, x: as for ``features_before``.
    """
    newest, _ = extract(state.extractor.vars, x, train=False)
    return features_before(extract, state, x).at[:, state.place].set(newest)


class DrawFn(Protocol):
    """Independent numbers of a shape, e.g. ``jax.random.normal``."""

    def __call__(self, key: Array, shape: tuple[int, ...], /) -> Array: ...


def symmetric(key: Array, shape: tuple[int, ...], /) -> Array:
    """Uniform in [-1, 1): divided by sqrt(fan in), what PyTorch draws for a layer."""
    return jax.random.uniform(key, shape, minval=-1.0)


def drawn_heads(key: Array, state: StackState, draw: DrawFn) -> dict[str, Array]:
    """W and A anew, each number divided by the root of how many numbers an output hears.

    Args:
      key: for the draw.
      state: has the heads; of W the places in use count alone.
      draw: ``jax.random.normal`` or ``symmetric``.

    Source: network.py: Kaiming normal with gain 1 as a task begins; torch's reset_parameters later.
    """
    heads, size = state.classifier.vars.params, state.classifier.vars.params["auxiliary"].shape[1]
    fan_in = {"weights": size * (state.place + 1), "auxiliary": jnp.int32(size)}
    keys = dict(zip(fan_in, jax.random.split(key), strict=True))
    return {
        name: (draw(keys[name], head.shape) / jnp.sqrt(fan_in[name])).astype(head.dtype)
        for name, head in heads.items()
    }


def kept_bits(state: StackState, num_tasks: int, masked: Sequence[str]) -> Array:
    """Bits of what answers after each task, float32[num_tasks].

    Args:
      state: in the last of them.
      num_tasks: so many.
      masked: hidden layers whose masks tell what is kept; (): all is.
    """
    weights, vars = state.classifier.vars.params["weights"], state.extractor.vars
    places, size = weights.shape[1:]
    numbers = jnp.full(places, float(sum(leaf.size for leaf in jax.tree.leaves(vars))))
    features = jnp.full(places, float(size))
    if masked:
        of_frozen = numbers_left(state.frozen.params, masked)
        of_newest = numbers_left(vars.params, masked)
        numbers, features = (
            jnp.where(jnp.arange(places) == state.place, new, jnp.resize(old, places))
            for old, new in zip(of_frozen, of_newest, strict=True)
        )
    tasks = jnp.arange(num_tasks)[:, None]
    used = jnp.arange(places) <= tasks
    classes = (state.came <= tasks).sum(axis=1)
    return 32 * ((used * numbers).sum(axis=1) + classes * (used * features).sum(axis=1))
