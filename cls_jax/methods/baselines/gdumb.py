"""GDumb: keeps a class-balanced memory and learns from that alone, each time from nothing.

While a task's examples pass by once they are only offered to the memory: an item whose class holds
less than its share takes the place of a random one of the largest class. When the answer is wanted
a fresh network is fitted to the memory, so whatever the stream did, nothing but the memory matters:
a check on how much a stream's difficulty says about learning.

Source: Prabhu, Torr, Dokania 2020 (ECCV), algorithm 1; drimpossible/GDumb, src/main.py and
src/utils.py: one epoch at a tenth of the rate, then cosine cycles of 1, 2, 4, … epochs; gradients
are clipped to norm 10.
Departs: the official code takes the first k / C examples of each class as the memory and computes
in half precision. Fitted after every task (the paper: whenever an answer is wanted; mammoth, whose
memory is a reservoir: after the last task alone). A stream of several epochs is passed once.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.errors import InputError
from cls_jax.core.losses import cross_entropy
from cls_jax.core.memory import Memory, class_balanced
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, Scalar, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Phase, method
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import (
    gradient_step,
    init_model,
    predict_with,
    shuffled_slots,
    slots_of_batch,
    torch_sgd,
)

_LARGEST_NORM = 10.0
_CUTMIX_RATE = 0.5


class GdumbState(struct.PyTreeNode):
    """What GDumb carries from step to step.

    Attributes:
      model: the network, fitted to the memory of the last task.
      memory: slots {x, y}.
      order: int32[memory_size] slots in the order of this epoch, filled ones in front.
      fit_step: int32[] steps of this fit.
    """

    model: Trainable
    memory: Memory
    order: Array
    fit_step: Array


@method
def gdumb(
    problem: Problem,
    *,
    memory_size: int = 500,
    fit_epochs: int = 256,
    fit_batch_size: int = 16,
    cutmix: bool = True,
    learning_rate: float = 0.05,
    min_learning_rate: float = 0.0005,
    momentum: float = 0.9,
    weight_decay: float = 1e-6,
) -> Algorithm:
    """Greedy sampler and dumb learner; its phase "collect" learns nothing, so its loss is 0.

    Args:
      memory_size: k, slots; the middle of the three published for CIFAR-10.
      fit_epochs: passes over the memory after each task; official script for CIFAR-10 (128 for
        MNIST).
      fit_batch_size: examples a step of them; official code.
      cutmix: half of those steps paste a box of other images into each image, so images only;
        official script for CIFAR-10: alpha 1, p 0.5 (without for MNIST).
      learning_rate: eta, where a cosine cycle starts, >= 0; official code.
      min_learning_rate: what the cycle falls to, >= 0; official code.
      momentum: of SGD, in [0, 1); official code.
      weight_decay: times the parameters, added to the gradient, >= 0; official code.

    Raises:
      InputError: if a size is below 1, or (from ``init``) if CutMix is to mix vectors.
    """
    for name, value in (("fit_epochs", fit_epochs), ("fit_batch_size", fit_batch_size)):
        if value < 1:
            raise InputError(f"{name}={value} fits nothing; give at least 1")
    net, augment = problem.net(), problem.augment
    num_slots, size = memory_size, min(fit_batch_size, memory_size)
    policy = class_balanced(num_slots, problem.num_classes)
    epoch_steps = -(-num_slots // size)

    def optimizer_of(epoch: Array) -> optax.GradientTransformation:
        rate = learning_rate_of(epoch, learning_rate, min_learning_rate)
        return clipped_sgd(rate, momentum, weight_decay)

    def new_model(key: Array, x: Array) -> Trainable:
        return init_model(key, net, augment.test(x), optimizer_of(jnp.int32(0)))

    def init(key: Array, example: Batch) -> GdumbState:
        if cutmix and augment.test(example.x).ndim != 4:
            raise InputError("cutmix=True mixes images and these are vectors; give cutmix=False")
        return GdumbState(
            model=new_model(key, example.x),
            memory=policy.init({"x": example.x, "y": example.y}),
            order=jnp.arange(num_slots, dtype=jnp.int32),
            fit_step=jnp.int32(0),
        )

    def collect(key: Array, state: GdumbState, batch: Batch) -> tuple[GdumbState, Metrics]:
        memory = policy.add(key, state.memory, {"x": batch.x, "y": batch.y}, batch.valid)
        return state.replace(memory=memory), {"loss": jnp.float32(0)}

    def begin_fit(key: Array, state: GdumbState, task: Task, data: Batch | None) -> GdumbState:
        model = new_model(key, state.memory.slots["x"][:1])
        return state.replace(model=model, fit_step=jnp.int32(0))

    def fit(key: Array, state: GdumbState, batch: Batch) -> tuple[GdumbState, Metrics]:
        key_order, key_augment, key_mix = jax.random.split(key, 3)
        epoch, place = jnp.divmod(state.fit_step, epoch_steps)

        # The next batch of a pass over the filled slots, shuffled as the epoch begins.
        filled = policy.filled(state.memory)

        order = jax.lax.cond(
            place == 0, lambda: shuffled_slots(key_order, filled), lambda: state.order
        )
        slot, valid = slots_of_batch(order, place, filled.sum(), size)
        x, y = state.memory.slots["x"][slot], state.memory.slots["y"][slot]

        x, other, share = augment.train(key_augment, x), jnp.arange(size), 1.0
        if cutmix:
            x, other, share = cutmix_batch(key_mix, x, valid)

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=valid)
            own = cross_entropy(logits, y, valid=valid)
            pasted = cross_entropy(logits, y[other], valid=valid)
            return share * own + (1 - share) * pasted, stats

        model, value = gradient_step(state.model, optimizer_of(epoch), loss)
        model = select(valid.any(), model, state.model)  # a memory not yet full: no step
        return state.replace(model=model, order=order, fit_step=state.fit_step + 1), {"loss": value}

    phases = (
        Phase("collect", collect, epochs=1),
        Phase("fit", fit, enter=begin_fit, num_steps=fit_epochs * epoch_steps),
    )
    return Algorithm(init=init, phases=phases, predict=predict_with(net, augment))


def clipped_sgd(
    learning_rate: Scalar, momentum: Scalar, weight_decay: Scalar
) -> optax.GradientTransformation:
    """SGD with momentum, gradients clipped and then decayed.

    Args:
      learning_rate, momentum, weight_decay: float32[].
    """
    clip = optax.clip_by_global_norm(_LARGEST_NORM)
    return optax.chain(clip, torch_sgd(learning_rate, momentum, weight_decay))


def learning_rate_of(epoch: Array, high: Scalar, low: Scalar) -> Array:
    """float32[]: a tenth of the highest in epoch 0; then cycles that begin at epochs 1, 2, 4, 8, …

    In a cycle of n epochs, the i-th from 0 has ``low + (high - low) (1 + cos(pi i / n)) / 2``.

    Args:
      epoch: int32[].
      high, low: float32[].
    """
    length = 1 << (31 - jax.lax.clz(jnp.maximum(epoch, 1)))
    cosine = jnp.cos(jnp.pi * (epoch - length) / length)
    return jnp.where(epoch == 0, 0.1 * high, low + (high - low) * (1 + cosine) / 2)


def cutmix_batch(key: Array, x: Array, valid: Array) -> tuple[Array, Array, Array]:
    """With probability 1/2, one box of each image comes from another image of the batch.

    The box covers a share ``1 - lambda`` of the image, lambda uniform in [0, 1), about a uniform
    centre, and is cut at the border; all images of a batch have the same box.

    Args:
      key: for the draw.
      x: float32[b, h, w, c].
      valid: bool[b], the first rows; they are mixed among themselves.

    Returns:
      The images, int32[b] the row that each box came from, and float32[] the share of pixels that
      stayed, which weighs the loss on an image's own label.

    Source: Yun et al. 2019; drimpossible/GDumb, src/utils.py: beta(1, 1), sizes rounded down.
    """
    key_fire, key_size, key_centre, key_other = jax.random.split(key, 4)
    side = jnp.array(x.shape[1:3])
    half = (side * jnp.sqrt(jax.random.uniform(key_size))).astype(jnp.int32) // 2
    centre = jax.random.randint(key_centre, (2,), 0, side)
    low, high = jnp.maximum(centre - half, 0), jnp.minimum(centre + half, side)
    down, across = jnp.arange(x.shape[1])[:, None], jnp.arange(x.shape[2])
    box = (low[0] <= down) & (down < high[0]) & (low[1] <= across) & (across < high[1])
    box &= jax.random.bernoulli(key_fire, _CUTMIX_RATE)
    other = jnp.argsort(~valid + jax.random.uniform(key_other, valid.shape))
    return jnp.where(box[:, :, None], x[other], x), other, 1 - box.mean()
