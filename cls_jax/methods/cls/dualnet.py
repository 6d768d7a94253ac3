"""DualNet: a slow learner of general features, a fast learner that adapts them to each batch.

Pham, Liu, Hoi, "DualNet: Continual Learning, Fast and Slow", NeurIPS 2021 (arXiv 2110.00175).

    at a boundary:
        keep the present logits of remembered examples as their soft targets
    for each batch:
        store the labelled examples
        slow phase, without labels:
            repeat n_outer times:  inner_steps of SGD on L_ssl, followed a part of the way
        fast phase, if there are labels:
            repeat inner_steps times:
                slow, fast <- slow, fast - eta * gradient of
                    CE(batch) + CE(replay) + lambda * KL(soft targets, replay)

Source: phquang/DualNet (HEAD e96ea75): the code is the specification where the paper is silent.
Departs, each with a switch to the code's behaviour: soft targets are taken with running statistics
(``snapshot="train"``), and a remembered example without soft targets of its own has no soft-target
loss (``stale_soft_targets=True``). Without a switch: fill counts instead of uninitialised memory;
an exact reservoir; soft targets are taken at the boundary, not at the first labelled batch after
it; the self-supervised optimizer holds the slow tree only, which is what gets gradient; a
task-aware learner takes an example whose class is none of its task's (blurry tasks have such) as
an image without a label, which is neither stored nor in a supervised loss.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from cls_jax.core import losses
from cls_jax.core.checks import check_range
from cls_jax.core.choices import GroupMasks, Objective
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.cls.dualnet_masks import Cut, masking
from cls_jax.methods.cls.dualnet_slow import NEEDS_PREDICTOR, slow_learner, slow_optimizer
from cls_jax.methods.cls.dualnet_tasks import (
    DualNetState,
    aware_rules,
    free_rules,
    pad_rows,
    soft_target_loss,
)
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import apply_gradient, in_turn, parameter_bits, repeat


@method
def dualnet(
    problem: Problem,
    *,
    task_aware: bool = True,
    memory_size: int = 850,
    replay_size: int = 10,
    ssl_size: int = 32,
    n_outer: int = 2,
    inner_steps: int = 2,
    objective: Objective = "barlow_twins",
    semi_supervised: bool | None = None,
    ssl_optimizer: Literal["sgd", "momentum"] = "sgd",
    kl_reduction: Literal["elements", "batchmean"] = "elements",
    snapshot: Literal["eval", "train"] = "eval",
    stale_soft_targets: bool = False,
    lookahead_stats: bool = True,
    masks: GroupMasks = "none",
    told_groups: tuple[int, ...] = (),
    learning_rate: float = 0.03,
    ssl_learning_rate: float = 3e-4,
    lookahead_step_size: float = 0.05,
    temperature: float = 2.0,
    soft_target_weight: float = 10.0,
    ssl_momentum: float = 0.9,
    ssl_weight_decay: float = 5e-4,
    target_decay: float = 0.99,
) -> Algorithm:
    """DualNet, task-aware; "dualnet_tf" in tables if task-free.

    Args:
      task_aware: softmax over the task's own classes, a ring for each task; False is task-free:
        one head, one reservoir, the task is never told.
      memory_size: slots in all; task-aware: divided evenly among the tasks. Official code: 17 tasks
        x 50; task-free there: 100 a class in one reservoir.
      replay_size: examples replayed in a supervised step; official code, miniImageNet.
      ssl_size: remembered examples in a self-supervised step (the first task uses the batch);
        official code.
      n_outer: look-ahead rounds a batch; official code, semi-supervised script; a shell argument
        elsewhere.
      inner_steps: K, SGD steps in a look-ahead round, and supervised steps after it; official code.
      objective: self-supervised loss; the names ending in "as_in_code" repeat the code's variants.
      semi_supervised: learn from images without labels too, and from the stream's beside
        remembered ones; if not given, where the stream has examples without labels.
      ssl_optimizer: plain SGD, or with momentum and weight decay (code: semi-supervised).
      kl_reduction: soft-target loss averaged over all elements (code) or over the batch.
      snapshot: BatchNorm statistics behind soft targets: "eval" running ones, "train" those of the
        batch, which also moves the running ones (code).
      stale_soft_targets: examples without soft targets of their own use what their slot holds,
        at first zero logits (code, task-free).
      lookahead_stats: look-ahead moves the BatchNorm statistics too (code). Without, weights and
        statistics no longer fit: -3.1 ± 1.4 points at a tenth of the labels (records/,
        dualnet_statistics_kept_out).
      masks: ours: of task groups, over what the fast network adapts ("product"; "neutral" leaves
        the slow feature where it masks), or over the slow trunk too ("trunk"); see dualnet_masks.
      told_groups: the group of each task, from 0 on; only with masks. At test the group is told
        with the task, or else that of the nearest mean of exemplars, in pixels.
      learning_rate: eta, of the supervised steps, slow and fast networks; official code.
      ssl_learning_rate: eta_ssl, of the self-supervised steps; at 0 they leave the weights alone,
        to the rounding of the look-ahead; official code, miniImageNet.
      lookahead_step_size: beta, how far the slow weights follow a self-supervised round, in [0,
        1]; official code, miniImageNet. 1 in place of 0.05 cost 3.5 points (all labels) and 6.7 (a
        tenth) on 15 classes of 32x32 pictures; 0, no slow learning at all, was as good as 0.05 on
        85: -0.4 ± 0.4 and +0.5 ± 0.6 (records/, dualnet_all_labels, dualnet_tenth).
      temperature: T, softens logits and soft targets, > 0; official code.
      soft_target_weight: lambda, of the soft-target loss on replay, >= 0; official code, there
        ``memory_strength``.
      ssl_momentum: only with the ssl_optimizer "momentum".
      ssl_weight_decay: only with the ssl_optimizer "momentum".
      target_decay: of BYOL's averaged network; only with the objective "byol".

    Raises:
      InputError: if a size or the groups do not fit, the augmentation has no self-supervised
        views, or a task-free learner has masks.
    """
    check_replay(memory_size, replay_size)
    check_range("ssl_size", ssl_size, 1, memory_size)
    semi = problem.unlabelled if semi_supervised is None else semi_supervised
    augment, num_classes, num_tasks = problem.augment, problem.num_classes, problem.num_tasks
    rules = aware_rules(memory_size, num_tasks) if task_aware else free_rules(memory_size)
    policy, optimizer = rules.policy, optax.sgd(learning_rate)
    masked = masking(masks, told_groups, num_tasks if task_aware else 0, policy, augment)
    kl = {"temperature": temperature, "reduction": kl_reduction, "stale": stale_soft_targets}
    nets = problem.dualnets(predictor=objective in NEEDS_PREDICTOR)
    slow_part = slow_learner(
        nets,
        augment,
        slow_optimizer(
            ssl_optimizer,
            learning_rate=ssl_learning_rate,
            momentum=ssl_momentum,
            weight_decay=ssl_weight_decay,
        ),
        objective=objective,
        n_outer=n_outer,
        inner_steps=inner_steps,
        lookahead_step_size=lookahead_step_size,
        lookahead_stats=lookahead_stats,
        target_decay=target_decay,
    )

    def init(key: Array, example: Batch) -> DualNetState:
        key_slow, key_fast = jax.random.split(key)
        x = augment.test(example.x)
        slow, fast = nets.init_slow(key_slow, x), nets.init_fast(key_fast, x)
        ssl = slow_part.optimizer.init(slow.params)
        opt = {"ssl": ssl, "supervised": optimizer.init(slow.params)}
        items = {
            "x": example.x,
            "y": example.y,
            "task": example.task,
            "logits": jnp.zeros((example.y.shape[0], num_classes)),
            "has_logits": example.valid,
        }
        state = DualNetState(
            slow=Trainable(vars=slow, opt=opt),
            fast=Trainable(vars=fast, opt=optimizer.init(fast.params)),
            target=slow if objective == "byol" else (),
            memory=policy.init(items),
            task_classes=jnp.zeros((num_tasks, num_classes), bool),
            num_begun=jnp.int32(0),
            last=jnp.int32(-1),
        )
        maps, _ = jax.eval_shape(partial(nets.features, train=False), slow, x)
        return masked.start(key, state, [one.shape[-1] for one in maps])

    def forward(slow: Variables, fast: Variables, x: Array, cut: Cut, *, train: bool, valid=None):
        """Logits of slow and fast network, the one on the other's maps, and both after the pass."""
        maps, slow_stats = nets.features(slow, x, train=train, valid=valid, **cut.slow)
        logits, fast_stats = nets.classify(fast, x, maps, train=train, valid=valid, **cut.fast)
        return logits, slow.replace(stats=slow_stats), fast.replace(stats=fast_stats)

    # --- a batch --------------------------------------------------------------------------------

    def step(key: Array, state: DualNetState, batch: Batch) -> tuple[DualNetState, Metrics]:
        key_add, key_slow, key_fast = jax.random.split(key, 3)
        learned = rules.learnable(state, batch)
        items = {"x": batch.x, "y": batch.y, "task": batch.task}
        items["has_logits"] = jnp.zeros(learned.shape, bool)
        state = state.replace(memory=policy.add(key_add, state.memory, items, learned))
        state, ssl = slow_phase(key_slow, state, batch)
        state, metrics = fast_phase(key_fast, state, batch, learned)
        return state, {**metrics, "ssl": ssl}

    def slow_phase(key: Array, state: DualNetState, batch: Batch) -> tuple[DualNetState, Array]:
        """The slow network learns without labels, a part of the way; gives the mean loss too."""

        def draw(key: Array) -> tuple[Array, Array, Mapping[str, PyTree]]:
            """Images, their mask and their groups': from memory, or the stream without one."""
            where = rules.replayable(state, batch)
            replay = policy.sample(key, state.memory, ssl_size, where=where)
            streamed = batch.x, batch.valid, batch.task
            remembered = replay.items["x"], replay.valid, replay.items["task"]
            if semi:
                x, valid, task = map(jnp.concatenate, zip(streamed, remembered, strict=True))
            else:
                size = max(batch.x.shape[0], ssl_size)
                both = ([pad_rows(rows, size) for rows in one] for one in (remembered, streamed))
                x, valid, task = select(replay.valid.any(), *both)
            return x, valid, masked.of(state, task).slow

        slow, target, value = slow_part.phase(key, state.slow, state.target, draw)
        return state.replace(slow=slow, target=target), value

    def fast_phase(key: Array, state: DualNetState, batch: Batch, learned: Array):
        """Both networks learn with labels; without any they stay, if such batches are expected."""
        before = state

        def inner(state: DualNetState, key: Array) -> tuple[DualNetState, Metrics]:
            return supervised_step(key, state, batch, learned)

        state, metrics = repeat(inner, state, jax.random.split(key, inner_steps))
        metrics = jax.tree.map(lambda values: values[-1], metrics)
        if semi:
            some = learned.any()
            state = select(some, state, before)
            metrics = {name: jnp.where(some, value, 0.0) for name, value in metrics.items()}
        return state, metrics

    def supervised_step(key: Array, state: DualNetState, batch: Batch, learned: Array):
        key_draw, key_x, key_m = jax.random.split(key, 3)
        where = rules.replayable(state, batch)
        replay = policy.sample(key_draw, state.memory, replay_size, where=where)
        x, xm = augment.train(key_x, batch.x), augment.train(key_m, replay.items["x"])
        rows, valids = ((x, batch.task), (xm, replay.items["task"])), (learned, replay.valid)

        def each(vars: tuple[Variables, Variables], rows: tuple, valid: Array):
            found = forward(*vars, rows[0], masked.of(state, rows[1]), train=True, valid=valid)
            return found[0], found[1:]

        def loss(params: dict) -> tuple[Array, tuple]:
            """Batch and replay, each normalised by itself."""
            slow = state.slow.vars.replace(params=params["slow"])
            fast = state.fast.vars.replace(params=params["fast"])
            (logits, replayed), (slow, fast) = in_turn(each, (slow, fast), rows, valids)
            own = rules.own_classes(state, batch.task)
            ce = losses.cross_entropy(logits, batch.y, valid=learned, classes=own)
            own, y = rules.own_classes(state, replay.items["task"]), replay.items["y"]
            replay_ce = losses.cross_entropy(replayed, y, valid=replay.valid, classes=own)
            soft = soft_target_loss(replayed, replay, own, **kl)
            total = ce + replay_ce + soft_target_weight * soft
            metrics = {"loss": total, "ce": ce, "replay_ce": replay_ce, "soft": soft}
            return total, (slow.stats, fast.stats, metrics)

        slow, fast = state.slow, state.fast
        params = {"slow": slow.vars.params, "fast": fast.vars.params}
        gradient, (slow_stats, fast_stats, metrics) = jax.grad(loss, has_aux=True)(params)
        own = slow.replace(opt=slow.opt["supervised"])
        moved = apply_gradient(own, optimizer, gradient["slow"], slow_stats)
        slow = moved.replace(opt={**slow.opt, "supervised": moved.opt})
        fast = apply_gradient(fast, optimizer, gradient["fast"], fast_stats)
        return state.replace(slow=slow, fast=fast), metrics

    # --- a boundary -----------------------------------------------------------------------------

    def begin_task(key: Array, state: DualNetState, task: Task, data: Batch | None):
        state = rules.boundary(state, task, store_soft_targets)
        return state.replace(num_begun=state.num_begun + 1, last=task.index)

    def store_soft_targets(state: DualNetState, index: Array, wanted: Array) -> DualNetState:
        """Stores the present logits of the slots ``index`` where ``wanted``."""
        x = augment.test(state.memory.slots["x"][index])
        train = snapshot == "train"
        slow, fast = state.slow.vars, state.fast.vars
        cut, valid = masked.of(state, state.memory.slots["task"][index]), wanted if train else None
        logits, slow, fast = forward(slow, fast, x, cut, train=train, valid=valid)
        items = {"logits": logits, "has_logits": jnp.ones(wanted.shape, bool)}
        return state.replace(
            memory=policy.write(state.memory, index, items, wanted),
            slow=state.slow.replace(vars=slow),
            fast=state.fast.replace(vars=fast),
        )

    def predict(state: DualNetState, x: Array, task: Task) -> Array:
        cut = masked.of(state, masked.task_of(state, x, task))
        return forward(state.slow.vars, state.fast.vars, augment.test(x), cut, train=False)[0]

    needs = Needs(told_task=task_aware, boundaries=True, unlabelled=semi)
    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        needs=needs._replace(told_task_at_test=masks != "none"),
        capacity=parameter_bits("slow", "fast"),
        name="dualnet" if task_aware else "dualnet_tf",
    )
