"""DyTox: a transformer that grows by one token and one small classifier a task.

The network (``nets/dytox.py``) answers with the logits of all heads side by side, so nobody tells
the task at test. For C_o old classes of C, labels learned by binary cross-entropy over all C, what
the network said before the task, and a throw-away head on the newest embedding, whose first output
is "any old class", the loss of a task's images and all of the memory is

  (1 - C_o / C) L_clf + C_o / C L_kd + w L_div,      L_clf in the first task.

Old tokens and heads stand still; encoder and decoder do not. Then herding chooses the memory, M //
C of each class, and a short second phase learns L_clf from the memory alone, equally many of each
class, with the encoder frozen and all tokens and heads trained.

DyTox+ mixes images and labels (MixUp) in both phases. DyTox++ takes the gradient, in later tasks,
where the loss is worst nearby (adaptive SAM).

| symbol | name | default |
|---|---|---|
| M | memory_size | 2000, one memory: the erratum's "global memory" |
| w | divergence_weight | 0.1, official code |
| rho | sam_radius | 3, official code |
| T of L_kd | - | 1, official code |

Source: Douillard et al. 2022 (CVPR; arXiv 2111.11326); arthurdouillard/dytox at 4da25c1, engine.py,
main.py, continual/dytox.py, rehearsal.py, and its erratum. Rates are those of two GPUs, 256 images
a step. L_kd is a mean over old classes, too, as there: C_o times weaker than the divergence.
Departs: the memory is herded from plain images, once (the first results in print come from a memory
for each GPU, herded from augmented ones); herding is iCaRL's paper's, which never comes back to an
image. The second phase is shuffled and keeps its last batch; ``finetune_order`` has the code's way.
The code shuffles the memory among the task's images, here it stands beside the stream's batches
(``exemplars.mix_exemplars``): as often, but on average. There are no RandAugment and no repeated
augmentation. A class that comes back in a later task stays with its first head, as an old class. A
row of a class not told so far is padding.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.herding import unit
from cls_jax.core.losses import mask_logits
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.architecture.dytox_losses import Outputs, label_loss, mix_up, total_loss
from cls_jax.methods.architecture.dytox_memory import by_age, memory_batch
from cls_jax.methods.architecture.dytox_state import (
    DytoxState,
    grown,
    moved_for,
    tokens_of,
    with_divergence,
)
from cls_jax.methods.architecture.dytox_updates import adamw, ascended, epoch_rate, only
from cls_jax.methods.base import Algorithm, Needs, Phase, method, unchanged
from cls_jax.methods.problem import Problem
from cls_jax.methods.prototypes.exemplars import (
    check_exemplars,
    mix_exemplars,
    no_exemplars,
    select_exemplars,
)
from cls_jax.methods.steps import apply_gradient, told_rows
from cls_jax.nets.dytox import dytox_net, head_logits, task_logits


@method
def dytox(
    problem: Problem,
    *,
    memory_size: int = 2000,
    replay_size: int = 128,
    mixup: bool = False,
    sam: bool = False,
    task_tokens: bool = True,
    distillation: bool = True,
    joint: bool = False,
    num_blocks: int = 5,
    head_size: int = 32,
    warmup_epochs: int = 5,
    cosine_epochs: int = 500,
    finetune_epochs: int = 20,
    finetune_batch_size: int = 256,
    finetune_order: Literal["shuffled", "as_in_code"] = "shuffled",
    learning_rate: float = 2.5e-4,
    first_learning_rate: float = 1e-6,
    last_learning_rate: float = 1e-5,
    finetune_learning_rate: float = 2.5e-5,
    weight_decay: float = 1e-6,
    drop_path_rate: float = 0.1,
    divergence_weight: float = 0.1,
    sam_radius: float = 3.0,
) -> Algorithm:
    """Dynamic token expansion of a transformer; DyTox+ with MixUp, DyTox++ with SAM beside it.

    The width of its transformer is the problem's (the paper's is 384), its patches follow from the
    image. Defaults are those of the official code for CIFAR-100 unless said. As a task begins, and
    as the second phase does, all its examples are handed over.

    Args:
      memory_size: M, exemplars in all, M // classes of each; 0: none, and nothing is replayed.
      replay_size: exemplars drawn a step; enough is batch size * M / examples of a task; 128 is
        ours, see Departs.
      mixup: mix images and their smoothed labels, in both phases; DyTox+ and DyTox++.
      sam: adaptive SAM in the first phase of later tasks, at twice the cost; DyTox++.
      task_tokens: a token and a head for each task; else one for all, never frozen.
      distillation: from the network as it was before the task; else L_clf has the weight 1.
      joint: all classes at once, the upper bound.
      num_blocks: self-attention blocks; the task-attention block is one more.
      head_size: numbers of an attention head.
      warmup_epochs: epochs of each task in which the rate rises.
      cosine_epochs: epochs of a cosine; as many as a task has.
      finetune_epochs: passes over the memory after each task but the first; 0 without.
      finetune_batch_size: exemplars a step of them.
      finetune_order: "as_in_code": from the oldest class to the newest, the last batch left out if
        it is not whole, so that the newest classes are hardly learned.
      learning_rate: of AdamW at its highest, >= 0; 5e-4 * batch size / 512.
      first_learning_rate: where each task's rate begins, >= 0.
      last_learning_rate: where it ends, >= 0.
      finetune_learning_rate: of the second phase, constant, >= 0; 5e-5 * its batch size / 512.
      weight_decay: of matrices, tokens and places, times the rate, >= 0.
      drop_path_rate: of the last block, in [0, 1]: how often a branch is left out in training; it
        rises linearly from 0 in the first. It stays in the second phase, as in the code.
      divergence_weight: w, of the divergence head's loss, >= 0; 0 is DyTox without it.
      sam_radius: rho, >= 0.

    Raises:
      InputError: for a size that cannot be, a memory too small for the classes, a second phase
        without memory, or (from ``init``) vectors.
    """
    num_classes = problem.num_classes
    if memory_size:
        check_exemplars(memory_size, num_classes)
    if finetune_epochs and not memory_size:
        raise InputError(
            f"finetune_epochs is {finetune_epochs} and memory_size 0: nothing to learn from; keep "
            "exemplars, or use finetune_epochs 0"
        )
    check_range("replay_size", replay_size, 1)
    check_range("warmup_epochs", warmup_epochs, 0)
    check_range("cosine_epochs", cosine_epochs, 1)
    check_range("finetune_epochs", finetune_epochs, 0)
    check_range("finetune_batch_size", finetune_batch_size, 1)
    num_tokens, width = problem.num_tasks if task_tokens else 1, problem.networks.width
    sizes = num_tokens, width, num_blocks, head_size, problem.networks.dtype
    net, augment = dytox_net(num_classes, *sizes), problem.augment
    num_slots = max(memory_size, 1)  # without a memory one, which stays empty
    replay_size = min(replay_size, num_slots)
    finetune_size = min(finetune_batch_size, num_slots)

    def restart(state: DytoxState) -> DytoxState:
        """A new optimizer; the phase at its first step."""
        moved = moved_for(state, state.seen, encoder=True)
        new = adamw(0.0, weight_decay, moved).init(state.model.vars.params)
        return state.replace(model=state.model.replace(opt=new), step=jnp.int32(0))

    def answer(state: DytoxState, params: PyTree, x: Array) -> Array:
        """float[b, C] logits of every class, without a draw."""
        return task_logits(params["heads"], net.embed(params, x), state.owner)

    def inputs(
        key: Array, state: DytoxState, x: Array, y: Array, valid: Array
    ) -> tuple[Array, Array]:
        """Augmented images, mixed in DyTox+, and what each of C outputs should say."""
        key_augment, key_mix = jax.random.split(key)
        x = augment.train(key_augment, x)
        if mixup:
            return mix_up(key_mix, x, y, valid, state.seen)
        return x, jax.nn.one_hot(y, num_classes)

    def init(key: Array, example: Batch) -> DytoxState:
        key_net, key_head = jax.random.split(key)
        params = net.init(key_net, augment.test(example.x)).params
        state = DytoxState(
            model=Trainable(Variables(with_divergence(key_head, params), {}), None),
            old=jax.tree.map(jnp.copy, params),
            memory=no_exemplars(example, num_slots),
            owner=jnp.zeros(num_classes, jnp.int32),
            newest=jnp.int32(0),
            past=jnp.zeros(num_classes, bool),
            seen=jnp.zeros(num_classes, bool),
            task_size=jnp.int32(0),
            order=jnp.arange(num_slots, dtype=jnp.int32),
            step=jnp.int32(0),
        )
        return restart(state)

    def begin_task(key: Array, state: DytoxState, task: Task, data: Batch | None) -> DytoxState:
        assert data is not None  # begin_data
        newest = jnp.int32(task.index if task_tokens else 0)
        seen, params = state.seen | task.classes, state.model.vars.params
        old = {name: leaves for name, leaves in params.items() if name != "divergence"}
        state = state.replace(
            model=state.model.replace(vars=Variables(with_divergence(key, params), {})),
            old=jax.tree.map(jnp.copy, old),
            owner=jnp.where(task.classes & ~state.seen, newest, state.owner),
            newest=newest,
            past=jnp.zeros_like(seen) if joint else state.seen,
            seen=seen,
            task_size=told_rows(data, seen).sum(dtype=jnp.int32),
        )
        return restart(state)

    def step(key: Array, state: DytoxState, batch: Batch) -> tuple[DytoxState, Metrics]:
        key_draw, key_keep, key_input, key_drop, key_again = jax.random.split(key, 5)
        b, seen, past = len(batch.y), state.seen, state.past
        batch = batch.replace(valid=told_rows(batch, seen))
        mixed = mix_exemplars(key_draw, key_keep, state.memory, batch, state.task_size, replay_size)
        valid = mixed.weight > 0
        x, targets = inputs(key_input, state, mixed.x, mixed.y, valid)
        old_logits = answer(state, state.old, x)

        def loss(params: PyTree, key: Array) -> Array:
            seeing = net.embed(params, x, key=key, drop_path_rate=drop_path_rate)
            said = Outputs(
                task_logits(params["heads"], seeing, state.owner),
                head_logits(params["divergence"], seeing[:, state.newest]),
                *(targets, old_logits, valid),
            )

            def loss_of(part: slice) -> Array:
                rows = Outputs(*(leaf[part] for leaf in said))
                return total_loss(rows, past, seen, divergence_weight, distillation=distillation)

            share = mixed.weight[b:].sum() / jnp.maximum(mixed.weight.sum(), 1)
            return (1 - share) * loss_of(slice(b)) + share * loss_of(slice(b, None))

        rates = first_learning_rate, learning_rate, last_learning_rate
        rate = epoch_rate(batch.epoch, rates, warmup_epochs, cosine_epochs)
        params, moved = state.model.vars.params, moved_for(state, seen & ~past, encoder=True)
        value, gradient = jax.value_and_grad(loss)(params, key_drop)
        if sam:

            def at_the_worst() -> PyTree:
                worst = ascended(params, only(gradient, moved), sam_radius)
                return jax.grad(loss)(worst, key_again)

            gradient = jax.lax.cond(past.any(), at_the_worst, lambda: gradient)
        model = apply_gradient(state.model, adamw(rate, weight_decay, moved), gradient, {})
        return state.replace(model=model), {"loss": value}

    def herd_memory(key: Array, state: DytoxState, task: Task, data: Batch | None) -> DytoxState:
        assert data is not None  # end_data, or enter_data

        def features(x: Array) -> Array:
            """float[b, T width] of unit length: the embeddings of all tasks so far, as one."""
            seeing = net.embed(state.model.vars.params, augment.test(x))
            known = tokens_of(state, state.seen)[:, None]
            return unit(jnp.where(known, seeing, 0).reshape(len(x), -1))

        size = memory_size // jnp.maximum(state.seen.sum(), 1)
        memory, _ = select_exemplars(features, state.memory, data, task.classes, size)
        return restart(state.replace(memory=memory, order=by_age(memory, state.owner)))

    def finetune(key: Array, state: DytoxState, batch: Batch) -> tuple[DytoxState, Metrics]:
        key_order, key_input, key_drop = jax.random.split(key, 3)
        shuffled = finetune_order == "shuffled"
        drawn = memory_batch(
            key_order, state.memory, state.order, state.step, finetune_size, shuffled=shuffled
        )
        x, targets = inputs(key_input, state, drawn.x, drawn.y, drawn.valid)

        def loss(params: PyTree) -> Array:
            seeing = net.embed(params, x, key=key_drop, drop_path_rate=drop_path_rate)
            logits = task_logits(params["heads"], seeing, state.owner)
            return label_loss(logits, targets, drawn.valid, state.seen)

        params, moved = state.model.vars.params, moved_for(state, state.seen, encoder=False)
        descent = adamw(finetune_learning_rate, weight_decay, moved)
        value, gradient = jax.value_and_grad(loss)(params)
        model = apply_gradient(state.model, descent, gradient, {})
        on = state.past.any() & (drawn.epoch < finetune_epochs) & drawn.valid.any()
        model = select(on, model, state.model)
        state = state.replace(model=model, order=drawn.order, step=state.step + 1)
        return state, {"loss": value}

    def predict(state: DytoxState, x: Array, task: Task) -> Array:
        logits = answer(state, state.model.vars.params, augment.test(x))
        return mask_logits(logits.astype(jnp.float32), state.seen)

    phases, at_the_end = (Phase("train", step),), memory_size > 0
    if finetune_epochs:
        num_steps = finetune_epochs * -(-num_slots // finetune_size)
        kind = {"enter": herd_memory, "enter_data": True, "num_steps": num_steps}
        phases, at_the_end = (*phases, Phase("finetune", finetune, **kind)), False
    return Algorithm(
        init=init,
        phases=phases,
        predict=predict,
        begin_task=begin_task,
        end_task=herd_memory if at_the_end else unchanged,
        needs=Needs(
            told_task=True, boundaries=True, begin_data=True, end_data=at_the_end, pooled=joint
        ),
        capacity=lambda state: grown(state, problem.num_tasks),
        class_il=True,
        name=("dytox++" if sam else "dytox+") if mixup else None,
    )
