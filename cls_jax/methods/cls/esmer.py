"""ESMER: errors that surprise the averaged copy move the weights little and are not remembered.

Mean-ER with an error memory mu, a running mean of the stable copy's loss e on the stream. An
example with ``e >= beta mu`` learns with the weight ``w = mu / e``, every other with 1; one above
``beta mu`` is not offered to the reservoir. The loss adds three means: over the stream, over the
replay (x', y'), and over the replay's logits,
``mean_i w_i CE(h(x_i), y_i) + CE(h(x'), y') + lambda mean (h(x') - h_stable(x'))^2``.
No task boundaries, no task numbers; the stable copy answers, and both networks are evaluated.

``presets.py`` has the published settings.

Source: Sarfraz, Arani, Zonooz 2023 (ICLR; arXiv 2302.11344); NeurAI-Lab/ESMER, models/esmer.py,
which is followed in ties, in what mu leaves out, and in both clocks.
Departs: examples are stored from the first step on. The code stores nothing in the first pass over
each task, which in a stream of one pass would leave plain fine-tuning: ``warmup_epochs=1`` does so,
and a run without a further pass is warned. Any admitted example is offered; the code drops a batch
whose admitted labels are all 0 by mistake (``skip_class_zero`` does too). Draws,
augmentation and updates have keys of their own, the weights carry no gradient, mu skips an update
that is not finite, and a batch of one example has no outlier. The code's network for CIFAR has a
projector that nothing calls; here it has none.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.checks import check_range
from cls_jax.core.choices import EmaBn, Warmup
from cls_jax.core.losses import cross_entropy, logit_mse, mean_over, row_cross_entropy
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.sync import ema, ema_decay, select
from cls_jax.core.types import Array, Batch, Metrics, Scalar, Trainable, Variables
from cls_jax.methods.base import Algorithm, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.cls.ema_teacher import (
    Averaged,
    copy_of,
    maybe_ema_update,
    teacher_logits_each,
    too_slow,
)
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import forward_each, gradient_step, init_model, predict_with


class EsmerState(struct.PyTreeNode):
    """What ESMER carries from step to step.

    Attributes:
      working: the network that is trained.
      stable: its average, which judges, teaches and answers.
      memory: slots {x, y}.
      step: int32[] updates.
      mu: float32[] the error memory; 0 until there is one.
      mu_updates: int32[] how often it moved.
    """

    working: Trainable
    stable: Averaged
    memory: Memory
    step: Array
    mu: Array
    mu_updates: Array


@method
def esmer(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 32,
    warmup_epochs: int = 0,
    ema_bn: EmaBn = "own",
    warmup: Warmup = "steps",
    mean_warmup: Warmup = "steps",
    skip_class_zero: bool = False,
    learning_rate: float = 0.03,
    consistency_weight: float = 0.15,
    stable_rate: float = 0.9,
    stable_decay: float = 0.99,
    error_decay: float = 0.99,
    loss_margin: float = 1.2,
    std_margin: float = 1.0,
) -> Algorithm:
    """ESMER; its view is "working".

    Args:
      memory_size: M, slots of the reservoir; as for clser.
      replay_size: m, examples replayed a step; official, all tables.
      warmup_epochs: first passes over each task in which nothing is stored and mu stays; official
        is 1, of 50 passes, where fewer than 2 would leave nothing to replay.
      ema_bn: the copy's BatchNorm statistics: from its own forwards on stream and replay (as in the
        official code), averaged, or copied from the working network.
      warmup: the copy's average warms up over training steps (as in the official code) or over its
        own updates, which suits short streams and small rates.
      mean_warmup: mu, which starts at 0, warms up over training steps (as in the official code,
        where after a warm-up it is too small for a long time, and almost nothing is learned or
        stored) or over its own updates, the first of which is then taken as it is.
      skip_class_zero: drops a batch whose admitted examples are all of class 0, as the official
        code does by mistake.
      learning_rate: eta, step length, of SGD by default, >= 0; official, S-CIFAR-10.
      consistency_weight: lambda, of the logit consistency, >= 0; official, S-CIFAR-10.
      stable_rate: r, probability of an update of the copy a step, in [0, 1]; as for clser, since
        the official 0.1 belongs to 50 passes over CIFAR-10.
      stable_decay: alpha, cap of the copy's decay, in [0, 1); as for clser (official: 0.999).
      error_decay: alpha_l, cap of the decay of mu, in [0, 1); official, all tables.
      loss_margin: beta, how many times mu a loss may be before it is a surprise, >= 0; official,
        S-CIFAR-10, buffer 200. Below 1 some weights are above 1.
      std_margin: sigma, by how many standard deviations of the batch a loss may exceed the batch's
        mean before mu leaves it out, >= 0; official, all tables.

    Raises:
      InputError: if the memory is smaller than one replay draw, or the warm-up is below 0.
    """
    check_replay(memory_size, replay_size)
    check_range("warmup_epochs", warmup_epochs, 0)
    net, augment, policy = problem.net(), problem.augment, reservoir(memory_size)
    m, optimizer = replay_size, problem.optimizer(learning_rate)
    rule = {"rate": stable_rate, "decay": stable_decay, "ema_bn": ema_bn, "warmup": warmup}
    follow = partial(maybe_ema_update, **rule)

    def init(key: Array, example: Batch) -> EsmerState:
        working = init_model(key, net, augment.test(example.x), optimizer)
        return EsmerState(
            working=working,
            stable=copy_of(working.vars),
            memory=policy.init({"x": example.x, "y": example.y}),
            step=jnp.int32(0),
            mu=jnp.float32(0),
            mu_updates=jnp.int32(0),
        )

    def step(key: Array, state: EsmerState, batch: Batch) -> tuple[EsmerState, Metrics]:
        key_draw, key_augment, key_add, key_follow = jax.random.split(key, 4)
        number, warm = state.step + 1, jnp.asarray(batch.epoch) < warmup_epochs
        replay = policy.sample(key_draw, state.memory, m)
        x = augment.train(key_augment, jnp.concatenate([batch.x, replay.items["x"]]))
        xs, valids = jnp.split(x, [len(batch.x)]), [batch.valid, replay.valid]

        # The copy judges the stream, and says what the replayed examples should keep.
        (judged, targets), stable = teacher_logits_each(net, state.stable, xs, valids, ema_bn)
        errors = row_cross_entropy(judged, batch.y, valid=batch.valid)
        weight, expected = modulation(errors, state.mu, loss_margin)

        def loss(vars: Variables):
            (logits, replayed), stats = forward_each(net, vars, xs, valids)
            own = row_cross_entropy(logits, batch.y, valid=batch.valid)
            remembered = cross_entropy(replayed, replay.items["y"], valid=replay.valid)
            consistency = logit_mse(replayed, targets, valid=replay.valid)
            total = mean_over(weight * own, batch.valid) + remembered
            return total + consistency_weight * consistency, stats

        working, value = gradient_step(state.working, optimizer, loss)

        # Store what did not surprise; the copy follows.
        offered = expected & batch.valid & ~warm
        if skip_class_zero:
            offered &= (offered & (batch.y != 0)).any()
        items = {"x": batch.x, "y": batch.y}
        memory = policy.add(key_add, order_after(state.memory, replay), items, offered)
        stable = follow(key_follow, stable, working.vars, number)

        # Remember the error, outliers left out.
        usual = mean_over(errors, without_outliers(errors, batch.valid, std_margin))
        clock = number if mean_warmup == "steps" else state.mu_updates
        mu = ema(state.mu, usual, ema_decay(clock, error_decay))
        fire = ~warm & batch.valid.any() & jnp.isfinite(mu)
        mu, updates = select(fire, mu, state.mu), state.mu_updates + fire
        metrics = {
            "loss": value,
            "mu": mu,
            "admitted": mean_over(1.0 * offered, batch.valid),
            "weight": mean_over(weight, batch.valid),
        }
        return EsmerState(working, stable, memory, number, mu, updates), metrics

    def advice(num_steps: int, num_epochs: int) -> str:
        """A warning where nothing would be replayed, or the copy never followed, else ""."""
        if warmup_epochs >= num_epochs:
            return (
                f"warmup_epochs {warmup_epochs} leaves nothing of {num_epochs} passes over a task: "
                "nothing will be stored or replayed; use --warmup-epochs 0, or more --epochs"
            )
        slow = too_slow("stable", stable_rate, stable_decay, num_steps)
        return slow if warmup == "steps" else ""

    return Algorithm(
        init=init,
        step=step,
        predict=predict_with(net, augment, "stable"),
        views={"working": predict_with(net, augment, "working")},
        advice=advice,
    )


def modulation(errors: Array, mu: Array, margin: Scalar) -> tuple[Array, Array]:
    """What each example weighs, and whether it may be stored.

    A loss that is exactly at the margin weighs 1 / margin and may be stored, as in the code.

    Args:
      errors: float[b], the stable copy's losses.
      mu: float[], the error memory; 0: there is none yet, so all weigh 1 and may be stored.
      margin: beta, >= 0.

    Returns:
      (float[b], bool[b]).
    """
    known, limit = mu > 0, margin * mu
    surprising = known & (errors >= limit) & (errors > 0)
    weight = jnp.where(surprising, mu / jnp.where(surprising, errors, 1), 1)
    return weight, ~(known & (errors > limit))


def without_outliers(errors: Array, valid: Array, margin: Scalar) -> Array:
    """bool[b]: the valid rows at most ``margin`` unbiased standard deviations above the mean.

    Fewer than two valid rows are all kept.

    Args:
      errors: float[b].
      valid: bool[b].
      margin: sigma, >= 0.
    """
    number, mean = valid.sum(), mean_over(errors, valid)
    squares = jnp.where(valid, jnp.square(errors - mean), 0).sum()
    limit = mean + margin * jnp.sqrt(squares / jnp.maximum(number - 1, 1))
    return valid & ((number < 2) | ~(errors > limit))
