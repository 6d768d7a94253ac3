"""DualNet: a slow learner of general features, a fast learner that adapts them to each batch.

Pham, Liu, Hoi, "DualNet: Continual Learning, Fast and Slow", NeurIPS 2021 (arXiv 2110.00175).
The slow trunk learns without labels (Barlow Twins on remembered images) and moves only a part of
the way to where its SGD steps lead (look-ahead). Every labelled batch then trains slow and fast
networks together: cross-entropy on the batch and on replay, and soft targets kept in memory.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 0.03 | code, all settings |
| eta_ssl | ssl_learning_rate | 3e-4 | code, miniImageNet |
| beta | lookahead_step_size | 0.05 | code, miniImageNet |
| n_outer | n_outer | 2 | code, semi-supervised script; a shell argument elsewhere |
| K | inner_steps | 2 | code |
| T | temperature | 2 | code |
| lambda | soft_target_weight | 10 | code, ``memory_strength`` |
| - | memory_size | 850 | code, 17 tasks x 50; task-free there: 100 a class in one reservoir |
| - | replay_size | 10 | code, miniImageNet |
| - | ssl_size | 32 | code |

Source: phquang/DualNet (HEAD e96ea75): the code is the specification where the paper is silent.
Departs, each with a switch to the code's behaviour: soft targets are taken with running statistics
(``snapshot="train"``), and a remembered example without soft targets of its own has no soft-target
loss (``stale_soft_targets=True``). Without a switch: fill counts instead of uninitialised memory;
an exact reservoir; soft targets are taken at the boundary, not at the first labelled batch after
it; the self-supervised optimizer holds the slow tree only, which is what gets gradient; a
task-aware learner takes a row whose class its task was not told (blurry tasks have such) as an
image without a label, which is neither stored nor in a supervised loss.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core import losses
from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.memory import Memory
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.base import Method, Needs, Phase, parameter_bits
from cls_jax.methods.cls.dualnet_config import NEEDS_PREDICTOR, DualNetConfig, DualNetHyper
from cls_jax.methods.cls.dualnet_memory import memory_policy
from cls_jax.methods.cls.dualnet_slow import slow_learner
from cls_jax.nets.dualnet import DualNets

REFRESH = 64  # slots whose soft targets are computed in one forward pass (code)


@struct.dataclass
class DualNetState:
    """The whole learner.

    Attributes:
      slow: trunk and projector; its optimizer state is {"ssl", "supervised"}.
      fast: adapting blocks and head, with their own optimizer state.
      target: Variables of BYOL's averaged slow network; () for the other objectives.
      memory: slots {x, y, task, logits, has_logits}; ``logits`` are the soft targets.
      task_classes: bool[num_tasks, num_classes] of the tasks met so far.
      num_begun: int32[] boundaries met; last: int32[] number of the newest task, -1 unknown.
      hyper: DualNetHyper.
    """

    slow: Trainable
    fast: Trainable
    target: PyTree
    memory: Memory
    task_classes: Array
    num_begun: Array
    last: Array
    hyper: DualNetHyper


def dualnet(
    config: DualNetConfig, nets: DualNets, *, augment: Augment, num_classes: int, num_tasks: int
) -> Method:
    """DualNet as a Method.

    Args:
      config: the program.
      nets: slow and fast networks; with predictor for SimSiam and BYOL.
      augment: ``train`` and ``test`` make supervised inputs, ``view_a`` and ``view_b`` the two
        self-supervised views.
      num_classes: size of the head.
      num_tasks: rings of the task-aware memory.

    Returns:
      The method; its hyper is DualNetHyper.

    Raises:
      InputError: if a size does not fit, or the views or the predictor are missing.
    """
    policy = memory_policy(config, augment, num_tasks)
    if config.objective in NEEDS_PREDICTOR and not nets.predictor:
        raise InputError(f"objective is {config.objective!r}; build the nets with predictor=True")
    aware = config.task_aware
    ssl_init, slow_phase = slow_learner(config, nets, augment)

    def optimizer(hyper: DualNetHyper) -> optax.GradientTransformation:
        return optax.sgd(hyper.learning_rate)

    # --- forward passes -------------------------------------------------------------------------

    def forward(slow: Variables, fast: Variables, x: Array, *, train: bool, valid=None):
        """Logits of slow and fast network together, and both after the pass."""
        maps, slow_stats = nets.features(slow, x, train=train, valid=valid)
        logits, fast_stats = nets.classify(fast, x, maps, train=train, valid=valid)
        return logits, slow.replace(stats=slow_stats), fast.replace(stats=fast_stats)

    def classes_of(state: DualNetState, task: Array) -> Array | None:
        """bool[b, num_classes]: the columns of each example's own task; None: all."""
        return state.task_classes[jnp.maximum(task, 0)] if aware else None

    def counted(state: DualNetState, batch: Batch) -> Array:
        """bool[b]: the rows to learn from and to store; task-aware: of the task's own classes."""
        labelled = batch.valid & batch.labelled
        if not aware:
            return labelled
        return labelled & state.task_classes[jnp.maximum(batch.task, 0), batch.y]

    def replayable(state: DualNetState, batch: Batch) -> Array:
        """bool[capacity]: examples of earlier tasks; task-free: every one, once a task is over."""
        filled = policy.filled(state.memory)
        if aware:
            return filled & (state.memory.slots["task"] != batch.task[0])
        return filled & (state.num_begun > 1)

    def ssl_batch(key: Array, state: DualNetState, batch: Batch) -> tuple[Array, Array]:
        """Images without labels and their mask: memory, or the stream while there is none."""
        where = replayable(state, batch)
        draw = policy.sample(key, state.memory, config.ssl_size, where=where)
        images = draw.items["x"]
        if config.semi_supervised:
            both = jnp.concatenate([batch.x, images])
            return both, jnp.concatenate([batch.valid, draw.valid])
        size = max(batch.x.shape[0], config.ssl_size)
        remembered = (_pad(images, size), _pad(draw.valid, size))
        streamed = (_pad(batch.x, size), _pad(batch.valid, size))
        return select(draw.valid.any(), remembered, streamed)

    # --- supervised phase -----------------------------------------------------------------------

    def supervised_loss(params, state: DualNetState, batch: Batch, x: Array, xm: Array, replay):
        """CE on the batch + CE on replay + soft targets on replay, in two separate forwards."""
        slow = state.slow.vars.replace(params=params["slow"])
        fast = state.fast.vars.replace(params=params["fast"])
        items, temperature = replay.items, state.hyper.temperature
        seen = counted(state, batch)
        logits, slow, fast = forward(slow, fast, x, train=True, valid=seen)
        own = classes_of(state, batch.task)
        ce = losses.cross_entropy(logits, batch.y, valid=seen, classes=own)
        logits, slow, fast = forward(slow, fast, xm, train=True, valid=replay.valid)
        own = classes_of(state, items["task"])
        replay_ce = losses.cross_entropy(logits, items["y"], valid=replay.valid, classes=own)
        known = replay.valid & (items["has_logits"] | config.stale_soft_targets)
        targets = items["logits"] if own is None else losses.mask_logits(items["logits"], own)
        soft = losses.soft_target_kl(
            logits,
            jax.nn.softmax(targets / temperature),
            temperature=temperature,
            valid=known,
            classes=own,
            reduction=config.kl_reduction,
        )
        if not aware and config.kl_reduction == "elements":
            soft = soft * known.sum()  # the task-free code multiplies by the batch
        loss = ce + replay_ce + state.hyper.soft_target_weight * soft
        metrics = {"loss": loss, "ce": ce, "replay_ce": replay_ce, "soft": soft}
        return loss, (slow.stats, fast.stats, metrics)

    def supervised_step(key: Array, state: DualNetState, batch: Batch):
        key_draw, key_x, key_m = jax.random.split(key, 3)
        where = replayable(state, batch)
        replay = policy.sample(key_draw, state.memory, config.replay_size, where=where)
        x, xm = augment.train(key_x, batch.x), augment.train(key_m, replay.items["x"])
        slow, fast = state.slow, state.fast
        params = {"slow": slow.vars.params, "fast": fast.vars.params}
        gradient, (slow_stats, fast_stats, metrics) = jax.grad(supervised_loss, has_aux=True)(
            params, state, batch, x, xm, replay
        )
        rule = optimizer(state.hyper)
        updates, slow_opt = rule.update(gradient["slow"], slow.opt["supervised"])
        slow_vars = Variables(optax.apply_updates(slow.vars.params, updates), slow_stats)
        updates, fast_opt = rule.update(gradient["fast"], fast.opt)
        fast_vars = Variables(optax.apply_updates(fast.vars.params, updates), fast_stats)
        slow = Trainable(vars=slow_vars, opt={**slow.opt, "supervised": slow_opt})
        return state.replace(slow=slow, fast=Trainable(vars=fast_vars, opt=fast_opt)), metrics

    # --- soft targets ---------------------------------------------------------------------------

    def refresh(state: DualNetState, index: Array, wanted: Array) -> DualNetState:
        """Stores the present logits of the slots ``index`` where ``wanted``."""
        x = augment.test(state.memory.slots["x"][index])
        train = config.snapshot == "train"
        slow, fast = state.slow.vars, state.fast.vars
        logits, slow, fast = forward(slow, fast, x, train=train, valid=wanted if train else None)
        items = {"logits": logits, "has_logits": jnp.ones(wanted.shape, bool)}
        return state.replace(
            memory=policy.write(state.memory, index, items, wanted),
            slow=state.slow.replace(vars=slow),
            fast=state.fast.replace(vars=fast),
        )

    def begin_task(key: Array, state: DualNetState, task: Task, data: Batch | None):
        """Soft targets for what the last task left in memory; then the new task's classes."""
        filled = policy.filled(state.memory)
        if aware:
            per_task = policy.capacity // num_tasks
            index = jnp.maximum(state.last, 0) * per_task + jnp.arange(per_task)
            state = refresh(state, index, filled[index] & (state.last >= 0))
            table = state.task_classes.at[task.index].set(task.classes)
            state = state.replace(task_classes=table)
        else:
            wanted = filled & ~state.memory.slots["has_logits"]
            slots = _pad(jnp.arange(policy.capacity), -(-policy.capacity // REFRESH) * REFRESH)
            wanted = _pad(wanted, slots.size)
            parts = (slots.reshape(-1, REFRESH), wanted.reshape(-1, REFRESH))
            state, _ = jax.lax.scan(lambda s, part: (refresh(s, *part), None), state, parts)
        return state.replace(num_begun=state.num_begun + 1, last=task.index)

    # --- the algorithm --------------------------------------------------------------------------

    def step(key: Array, state: DualNetState, batch: Batch) -> tuple[DualNetState, Metrics]:
        key_add, key_slow, key_fast = jax.random.split(key, 3)
        learned = counted(state, batch)
        items = {"x": batch.x, "y": batch.y, "task": batch.task}
        items["has_logits"] = jnp.zeros(learned.shape, bool)
        state = state.replace(memory=policy.add(key_add, state.memory, items, learned))
        draw = lambda key: ssl_batch(key, state, batch)  # noqa: E731
        slow, target, ssl = slow_phase(key_slow, state.slow, state.target, draw, state.hyper)
        state = before = state.replace(slow=slow, target=target)
        for key_inner in jax.random.split(key_fast, config.inner_steps):
            state, metrics = supervised_step(key_inner, state, batch)
        if config.semi_supervised:
            some = learned.any()
            state = select(some, state, before)
            metrics = {name: jnp.where(some, value, 0.0) for name, value in metrics.items()}
        return state, {**metrics, "ssl": ssl}

    def init(key: Array, example: Batch, hyper: DualNetHyper) -> DualNetState:
        key_slow, key_fast = jax.random.split(key)
        x = augment.test(example.x)
        slow, fast = nets.init_slow(key_slow, x), nets.init_fast(key_fast, x)
        opt = {
            "ssl": ssl_init(slow.params, hyper),
            "supervised": optimizer(hyper).init(slow.params),
        }
        rows = example.y.shape[0]
        items = {
            "x": example.x,
            "y": example.y,
            "task": example.task,
            "logits": jnp.zeros((rows, num_classes)),
            "has_logits": example.valid,
        }
        return DualNetState(
            slow=Trainable(vars=slow, opt=opt),
            fast=Trainable(vars=fast, opt=optimizer(hyper).init(fast.params)),
            target=slow if config.objective == "byol" else (),
            memory=policy.init(items),
            task_classes=jnp.zeros((num_tasks, num_classes), bool),
            num_begun=jnp.int32(0),
            last=jnp.int32(-1),
            hyper=hyper,
        )

    def predict(state: DualNetState, x: Array, task: Task) -> Array:
        logits, _, _ = forward(state.slow.vars, state.fast.vars, augment.test(x), train=False)
        return logits

    return Method(
        name="dualnet" if aware else "dualnet_tf",
        init=init,
        phases=(Phase("train", step),),
        predict=predict,
        begin_task=begin_task,
        needs=Needs(told_task=aware, boundaries=True, unlabelled=config.semi_supervised),
        convolutional=nets.convolutional,
        capacity=parameter_bits("slow", "fast"),
    )


def _pad(rows: Array, size: int) -> Array:
    """``rows`` with zeros (False) behind, ``size`` in all."""
    return jnp.pad(rows, [(0, size - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1))
