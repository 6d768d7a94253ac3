"""RPS-Net, random path selection: a layer has M modules, a new path is the best of N random ones.

A path is one module of each layer. The first task learns on module 0 everywhere. Every J tasks N
paths are drawn, and each is a candidate: it learns the modules of its path that are on no earlier
one, which rest for good, and answers by the union of its path and all earlier ones, with one last
layer over all classes. As a task ends the best candidate is kept. The tasks in between go on with
the path. The loss of a task's images and all exemplars, for C_o old classes of C, is

  CE(z, y) + phi D,   D = sum_c max(0, q_c log(q_c / p_c)),   p = softmax(z / 2), q = softmax(t / 2)

t is what the network of before the task says of old classes, and 0 or 1 for all others; phi, the
controller, is 1 up to task J and then gamma times the tasks since.

| symbol | name | default |
|---|---|---|
| M, N, J | num_modules, num_candidates, path_tasks | 8, 8, 2, official code |
| gamma | distillation_weight | 2.5, official code |
| T | temperature | 2, official code |

Source: Rajasegaran et al. 2019 (NeurIPS; arXiv 1906.01120); brjathu/RPSnet at 40a884d, cifar.py,
learner.py, rps_net.py, and the card's settings of it.
Departs: the official code chooses both path and epoch by the accuracy on the test set, so no number
of it is a clean one; here it is the last epoch, and the path is chosen on a share of the task's
examples, which no candidate learns from, and on the exemplars, by the mean accuracy of the classes.
``choose_on="test"`` gives the path, not the epoch, as the code does, to measure what that is worth.
Its teacher sees through the new path's untrained modules, ours through the union of before
(``teacher``). Its module 0 is on in six of nine layers, selected or not: here it always is, since
the first path has it. D is a mean over rows, there a sum over the nominal batch. Exemplars are
drawn at random from the task, as there, but not once for all runs; a class with fewer cuts all
others to as many. They stand beside the stream's batches (``exemplars.mix_exemplars``). Candidates
see the same batches; their first modules, augmentations and exemplars are their own. A row of a
class not told so far is padding.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.herding import in_chunks
from cls_jax.core.losses import mask_logits
from cls_jax.core.memory import reservoir
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.architecture.der_expandable_heads import weighted_cross_entropy
from cls_jax.methods.architecture.der_expandable_state import NEVER
from cls_jax.methods.architecture.rpsnet_choice import class_accuracy, held_out
from cls_jax.methods.architecture.rpsnet_losses import (
    clamped_divergence,
    controller,
    mixed_targets,
    old_divergence,
    weighted_mean,
)
from cls_jax.methods.architecture.rpsnet_paths import (
    PathState,
    answering,
    check_modules,
    few_modules,
    kept_bits,
    on_path,
    part_on,
    roles_of,
    teacher_roles,
    with_chosen,
    with_path,
)
from cls_jax.methods.base import Algorithm, Needs, method, unchanged
from cls_jax.methods.checks import check_milestones, check_replay
from cls_jax.methods.problem import Problem
from cls_jax.methods.prototypes.cosine import step_decay
from cls_jax.methods.prototypes.exemplars import balanced_subset, check_exemplars, mix_exemplars
from cls_jax.methods.steps import apply_gradient, repeat, told_rows
from cls_jax.nets.path_modules import RESTS
from cls_jax.nets.rpsnet import PathNet, perceptron_paths, residual_paths


@method
def rpsnet(
    problem: Problem,
    *,
    num_modules: int = 8,
    num_candidates: int = 8,
    path_tasks: int = 2,
    memory_size: int = 2000,
    replay_size: int = 128,
    choose_on: Literal["held_out", "test"] = "held_out",
    distillation: Literal["as_in_code", "old_classes", "none"] = "as_in_code",
    teacher: Literal["old_union", "as_in_code"] = "old_union",
    halvings: tuple[int, ...] = (20, 40, 60, 80),
    learning_rate: float = 1e-3,
    distillation_weight: float = 2.5,
    temperature: float = 2.0,
    held_out_rate: float = 0.1,
) -> Algorithm:
    """Random path selection over modules, with exemplars and distillation.

    It has networks of its own: of --net mlp each module is an affine map, of --net resnet18 a
    residual block of the paper's, nine layers whose first has --width channels. Defaults are those
    of the official code for CIFAR-100 unless said. All examples are handed over as a task begins,
    and as it ends if there is a choice.

    Args:
      num_modules: M, modules of a layer.
      num_candidates: N, paths that are tried for a task; each costs a training. 1: there is no
        choice, and nothing is held out.
      path_tasks: J, tasks that share a path, >= 1; 1 for MNIST.
      memory_size: exemplars in all, the same number of each class; at least one a class.
      replay_size: exemplars drawn a step; enough is batch size * exemplars / examples of a task;
        128 is ours, see Departs.
      choose_on: which examples decide between candidates; "test" is no honest choice, see Departs.
      distillation: D of the official code; or the divergence over old classes alone; or none.
      teacher: which modules the old network answers with: those of before, or, "as_in_code", the
        candidate's too.
      halvings: passes of each task, from 0, from which the rate is half of what it was before.
      learning_rate: of Adam, which starts anew with each task, >= 0.
      distillation_weight: gamma, by which phi grows a task, >= 0; 10 for ImageNet.
      temperature: T of the distillation, > 0.
      held_out_rate: share of a task's examples that are held out, in [0, 1]; ours. 0: exemplars
        alone decide.

    Raises:
      InputError: for a network it does not have, a size that cannot be, a class without an
        exemplar, or tasks for which no module is left.
    """
    sizes = {"num_modules": num_modules, "num_candidates": num_candidates, "path_tasks": path_tasks}
    for name, value in sizes.items():
        check_range(name, value, 1)
    check_exemplars(memory_size, problem.num_classes)
    check_replay(memory_size, replay_size)
    check_milestones("halvings", halvings)
    check_modules(num_modules, path_tasks, problem.num_tasks)
    num_paths = -(-problem.num_tasks // path_tasks)
    net, augment = _net(problem, num_modules, num_paths), problem.augment
    num_classes = problem.num_classes
    policy, optimizer = reservoir(memory_size), optax.adam(learning_rate)
    shape, chooses = (num_candidates, net.num_layers), num_candidates > 1
    asks = "test" if chooses and choose_on == "test" else chooses

    def each_candidate(fn: Callable[..., PyTree], *given: PyTree) -> PyTree:
        """``fn`` of each: side by side, or one after another where they are convolutional."""
        if problem.networks.kind == "mlp":
            return jax.vmap(fn)(*given)
        return repeat(lambda _, one: (None, fn(*one)), None, given)[1]

    def learned_rows(batch: Batch, seen: Array) -> Array:
        """bool[b]: of classes told so far, and not held out."""
        rows = told_rows(batch, seen)
        return rows & ~held_out(batch.x, held_out_rate) if asks is True else rows

    def init(key: Array, example: Batch) -> PathState:
        # All learn module 0; each begins with the weights of another one.
        whole, paths = net.init(key, augment.test(example.x)), jnp.zeros(shape, jnp.int32)
        others = paths + jnp.arange(num_candidates)[:, None] % num_modules
        first = jax.vmap(on_path, (None, 0))(whole, others)
        memory = policy.init({"x": example.x, "y": example.y})
        return PathState(
            candidates=Trainable(first, jax.vmap(optimizer.init)(first.params)),
            paths=paths,
            whole=whole,
            came=jnp.full((net.num_layers, num_modules), NEVER, jnp.int32),
            drawn=jnp.int32(0),
            memory=memory,
            next_memory=jax.tree.map(jnp.copy, memory),
            past=jnp.zeros(num_classes, bool),
            seen=jnp.zeros(num_classes, bool),
            task=jnp.int32(0),
            task_size=jnp.int32(0),
        )

    def begin_task(key: Array, state: PathState, task: Task, data: Batch | None) -> PathState:
        assert data is not None  # begin_data
        key_paths, key_memory = jax.random.split(key)
        later, seen, memory = task.index > 0, state.seen | task.classes, state.next_memory
        draws = later & (task.index % path_tasks == 0)

        # The chosen path is part of the network now; a new one begins where its modules are.
        whole, _ = answering(state)
        random = jax.random.randint(key_paths, shape, 0, num_modules, jnp.int32)
        paths = jnp.where(draws, random, state.paths)
        own = jax.vmap(on_path, (None, 0))(whole, paths)
        own = select(later, own, state.candidates.vars)
        return PathState(
            candidates=Trainable(own, jax.vmap(optimizer.init)(own.params)),
            paths=paths,
            whole=whole,
            came=jnp.where(draws, with_chosen(state), state.came),
            drawn=jnp.where(draws, task.index, state.drawn),
            memory=jax.tree.map(jnp.copy, memory),
            next_memory=balanced_subset(key_memory, memory, data, seen, policy),
            past=jnp.copy(state.seen),
            seen=seen,
            task=jnp.copy(task.index),
            task_size=learned_rows(data, seen).sum(dtype=jnp.int32),
        )

    def step(key: Array, state: PathState, batch: Batch) -> tuple[PathState, Metrics]:
        past, seen, old = state.past, state.seen, teacher_roles(state)
        batch = batch.replace(valid=learned_rows(batch, seen))
        rate = learning_rate * step_decay(batch.epoch, halvings, 0.5)
        weight_of_old = controller(state.task, path_tasks, distillation_weight) * past.any()

        def learn(own: Trainable, path: Array, key: Array) -> tuple[Trainable, Array]:
            key_draw, key_keep, key_augment = jax.random.split(key, 3)
            mixed = mix_exemplars(
                key_draw, key_keep, state.memory, batch, state.task_size, replay_size
            )
            x, valid = augment.train(key_augment, mixed.x), mixed.weight > 0
            roles = roles_of(state.came, path)
            taught_by = old if teacher == "old_union" else jnp.minimum(roles, RESTS)
            old_logits, _ = net.apply(state.whole, taught_by, x, train=False)

            def loss(params: PyTree) -> tuple[Array, PyTree]:
                vars = with_path(state.whole, own.vars.replace(params=params), path)
                logits, stats = net.apply(vars, roles, x, train=True, valid=valid)
                ce = weighted_cross_entropy(logits, mixed.y, mixed.weight, seen)
                if distillation == "none":
                    return ce, stats
                if distillation == "old_classes":
                    rows = old_divergence(logits, old_logits, past, temperature)
                else:
                    targets = mixed_targets(mixed.y, old_logits, past)
                    rows = clamped_divergence(logits, targets, temperature)
                return ce + weight_of_old * weighted_mean(rows, mixed.weight), stats

            (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(own.vars.params)
            stats = part_on(stats, path)
            return apply_gradient(own, optax.adam(rate), gradient, stats), value

        keys = jax.random.split(key, num_candidates)
        candidates, losses = each_candidate(learn, state.candidates, state.paths, keys)
        return state.replace(candidates=candidates), {"loss": losses.mean()}

    def choose(key: Array, state: PathState, task: Task, data: Batch | None) -> PathState:
        assert data is not None  # end_data
        x, y, valid = data.x, data.y, told_rows(data, state.seen)
        if asks is True:
            there, slots = policy.filled(state.memory), state.memory.slots
            valid = jnp.concatenate([valid & held_out(x, held_out_rate), there])
            x, y = jnp.concatenate([x, slots["x"]]), jnp.concatenate([y, slots["y"]])

        def accuracy(own: Variables, path: Array) -> Array:
            vars, roles = with_path(state.whole, own, path), roles_of(state.came, path)

            def logits(x: Array) -> Array:
                return net.apply(vars, roles, augment.test(x), train=False)[0]

            return class_accuracy(mask_logits(in_chunks(logits, x), state.seen), y, valid)

        best = each_candidate(accuracy, state.candidates.vars, state.paths).argmax()
        candidates, paths = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[best], leaf.shape), (state.candidates, state.paths)
        )
        return state.replace(candidates=candidates, paths=paths)

    def predict(state: PathState, x: Array, task: Task) -> Array:
        logits, _ = net.apply(*answering(state), augment.test(x), train=False)
        return mask_logits(logits.astype(jnp.float32), state.seen)

    def capacity(state: PathState) -> Mapping[str, Array]:
        return {"bits": kept_bits(state, problem.num_tasks)}

    def advice(num_steps: int, num_epochs: int) -> str:
        told = "choose_on is 'test': paths are chosen by what is scored, which then says too much"
        few = few_modules(num_modules, net.num_layers, num_candidates, num_paths - 1)
        return "; ".join(filter(None, (told if asks == "test" else "", few)))

    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        end_task=choose if chooses else unchanged,
        needs=Needs(told_task=True, boundaries=True, begin_data=True, end_data=asks),
        capacity=capacity,
        advice=advice,
        class_il=True,
        name="rpsnet, chosen on test data" if asks == "test" else None,
    )


def _net(problem: Problem, num_modules: int, num_paths: int) -> PathNet:
    """The network that --net means here; raises InputError for another."""
    kind, sizes = problem.networks, (problem.num_classes, num_modules)
    if kind.kind == "mlp":
        return perceptron_paths(*sizes, kind.hidden, kind.dtype)
    if kind.kind != "resnet18":
        raise InputError(
            f"net is {kind.kind!r} and rpsnet has modules of its own: of a perceptron, 'mlp', or "
            "of the paper's residual network, 'resnet18'"
        )
    return residual_paths(*sizes, kind.width, kind.dtype, num_paths)
