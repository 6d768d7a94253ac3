"""APD: each task's weights are shared ones under a mask, plus a sparse residue of its own.

The kernel of a layer is ``theta_t = sigma * m_t + tau_t`` for task t: sigma is shared, the mask
``m_t = sigmoid(v_t)`` has one number an output unit, and tau_t is pulled towards zero, so that most
of it need not be stored. When sigma moves for a new task, the old tau_i and v_i move with it and
keep theta_i where it was; so nothing is forgotten, and little depends on the order of the tasks.
Task t minimises, over sigma, all tau_i, v_i, and its own last layer and biases,

  ``CE(theta_t) + lambda1 sum_{i<=t} |tau_i|_1 + lambda2 sum_{i<t} 1/2 ||theta*_i - theta_i||^2``
  ``+ decay/2 (||tau_t||^2 + ||v_t||^2 + [first] ||sigma||^2) + mask_weight |v_t|_1``,

theta*_i being theta_i as the task began. Every s tasks, ``apd_consolidation`` stores once what the
tau_i of similar tasks agree on. ``predict`` drops entries of tau up to lambda1 in size.

Keep the last rate below lambda1, or nothing becomes sparse: Adam leaves an unused tau about as
large as its step. And let the rate fall slowly: what the first steps moved needs as many to return.

Source: Yoon et al. 2020 (ICLR; arXiv 1902.09432); jaehong31/APD (TensorFlow 1). APD-Fixed, the
paper's variant ``retroactive=False``, leaves old tau_i and v_i and pulls sigma back instead:
``lambda2/2 ||sigma - sigma*||^2``.
Departs: after each task the last weights stay, the official code goes back to the best of the last
five epochs on held-out data. Sums are squared norms with 1/2, as its l2_loss; the paper writes them
without. Statistics of BatchNorm, which its network has not, are kept for each task. Where the task
is hidden at test, the task learned last answers.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.losses import cross_entropy, half_squared, magnitude
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.architecture.apd_capacity import numbers_kept, official_percent, one_network
from cls_jax.methods.architecture.apd_consolidation import (
    Groups,
    check_clusters,
    consolidate_layers,
    no_groups,
    num_groups,
)
from cls_jax.methods.architecture.apd_weights import (
    ApdParams,
    Layers,
    composed_at_test,
    composed_for,
    composed_for_all,
    drift_penalty,
    init_params,
    l1_norm,
    own_squares,
    variables_of_task,
)
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.checks import check_annealing
from cls_jax.methods.heads import annealed_adam, check_head, told_or_last_task
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import gradient_step, told_rows


class ApdState(struct.PyTreeNode):
    """What APD carries from step to step.

    Attributes:
      model: ApdParams, and the network's statistics once a task.
      anchor: kernel -> float32[T, ...], theta of every task as this one began, without what groups
        hold, which stays; for APD-Fixed float32[...], the shared ones.
      groups: kernel -> Groups; {} for APD(1).
      num_groups: int32[] groups found by the last consolidation.
      task: int32[] the task being learned, or the last one.
      classes: bool[T, C] classes of each task begun.
      learned: bool[T] tasks learned and not forgotten.
      num_learned: int32[] tasks learned.
      kept: float32[T] numbers kept after each task, in the order of learning; 0 for those to come.
      official: float32[T] the same in percent, as the official code counts.
    """

    model: Trainable
    anchor: Layers
    groups: dict[str, Groups]
    num_groups: Array
    task: Array
    classes: Array
    learned: Array
    num_learned: Array
    kept: Array
    official: Array


@method
def apd(
    problem: Problem,
    *,
    retroactive: bool = True,
    train_old_masks: bool = True,
    consolidate_every: int = 5,
    clusters: int = 2,
    annealing_steps: int = 40,
    learning_rate: float = 1e-3,
    annealing_rate: float = 0.95,
    sparsity_weight: float = 4e-4,
    drift_weight: float = 100.0,
    weight_decay: float = 1e-4,
    mask_weight: float = 0.0,
    residue_scale: float = 1 / 3,
    agreement_gap: float = 1e-2,
) -> Algorithm:
    """Additive parameter decomposition. The network must name its last layer.

    Args:
      retroactive: re-solve tau_i and v_i of old tasks as sigma moves, as the paper's APD does;
        False is APD-Fixed.
      train_old_masks: v_i of old tasks too, as in the official code; else tau_i alone.
      consolidate_every: s, tasks between two consolidations, which make it APD(2); 0: none, APD(1);
        jaehong31/APD, CIFAR-100 split, where all defaults come from but residue_scale.
      clusters: k, groups for every s tasks, from 1 to s; jaehong31/APD.
      annealing_steps: steps of a task between two falls of the rate, >= 1; jaehong31/APD, an epoch.
      learning_rate: eta, of Adam, which starts anew with each task, >= 0; jaehong31/APD.
      annealing_rate: factor on it after every annealing_steps steps, in [0, 1]; jaehong31/APD.
      sparsity_weight: lambda1, of the absolute values of tau, and the size up to which its entries
        do not answer, >= 0; jaehong31/APD (superclass: 6e-4).
      drift_weight: lambda2, of half the squared drift of old tasks' weights, >= 0; jaehong31/APD.
      weight_decay: of half the squares of the task's own weights, >= 0; jaehong31/APD.
      mask_weight: of the absolute values of v_t, >= 0; jaehong31/APD.
      residue_scale: tau_t begins as so many times sigma; wyjeong/FedWeIT (jaehong31/APD: 1).
      agreement_gap: beta, distance up to which entries of a group's tau are one number, >= 0;
        jaehong31/APD.

    Raises:
      InputError: if the network names no last layer, or a number of steps or groups cannot be.
    """
    net, augment, num_tasks = problem.net(), problem.augment, problem.num_tasks
    head = check_head("apd", net)
    check_annealing(annealing_steps)
    most_groups = check_clusters(consolidate_every, clusters, num_tasks)
    optimizer = annealed_adam(learning_rate, annealing_rate, annealing_steps)

    def init(key: Array, example: Batch) -> ApdState:
        vars = init_params(key, net, augment.test(example.x), num_tasks)
        residues, shared = vars.params.residues, vars.params.shared
        return ApdState(
            model=Trainable(vars=vars, opt=optimizer.init(vars.params)),
            anchor=jax.tree.map(jnp.zeros_like, residues if retroactive else shared),
            groups={n: no_groups(r, most_groups) for n, r in residues.items() if most_groups},
            num_groups=jnp.int32(0),
            task=jnp.int32(0),
            classes=jnp.zeros((num_tasks, problem.num_classes), bool),
            learned=jnp.zeros((num_tasks,), bool),
            num_learned=jnp.int32(0),
            kept=jnp.zeros((num_tasks,), jnp.float32),
            official=jnp.zeros((num_tasks,), jnp.float32),
        )

    def begin_task(key: Array, state: ApdState, task: Task, data: Batch | None) -> ApdState:
        t, p = task.index, state.model.vars.params
        residues = {n: r.at[t].set(residue_scale * p.shared[n]) for n, r in p.residues.items()}
        params = p.replace(residues=residues)
        vars = state.model.vars.replace(params=params)
        return state.replace(
            model=Trainable(vars=vars, opt=optimizer.init(params)),
            anchor=composed_for_all(p) if retroactive else jax.tree.map(jnp.copy, p.shared),
            task=t,
            classes=state.classes.at[t].set(task.classes),
        )

    def step(key: Array, state: ApdState, batch: Batch) -> tuple[ApdState, Metrics]:
        t, x = state.task, augment.train(key, batch.x)
        counted = told_rows(batch, state.classes[t])
        old = state.learned.at[t].set(False)
        solved = (old if retroactive else jnp.zeros_like(old)).at[t].set(True)

        def objective(vars: Variables) -> tuple[Array, PyTree]:
            p, mine = vars.params, variables_of_task(vars, composed_for(vars.params, t), t)
            logits, stats = net.apply(mine, x, train=True, valid=counted)
            loss = cross_entropy(logits, batch.y, valid=counted, classes=state.classes[t])
            penalty = sparsity_weight * l1_norm(p.residues, solved)
            penalty += drift_weight * drift(p, state.anchor, old)
            penalty += weight_decay * own_squares(p, t, first=~old.any())
            penalty += mask_weight * sum(magnitude(mask[t]).sum() for mask in p.masks.values())
            every = jax.tree.map(lambda leaf, new: leaf.at[t].set(new), vars.stats, stats)
            return loss + penalty, every

        model, value = gradient_step(state.model, optimizer, objective)
        return state.replace(model=model), {"loss": value}

    def drift(params: ApdParams, anchor: Layers, old: Array) -> Array:
        if not retroactive:
            return jnp.where(old.any(), half_squared(params.shared, anchor), 0)
        if not train_old_masks:
            params = params.replace(masks=jax.lax.stop_gradient(params.masks))
        return drift_penalty(composed_for_all(params), anchor, old)

    def end_task(key: Array, state: ApdState, task: Task, data: Batch | None) -> ApdState:
        state = state.replace(learned=state.learned.at[task.index].set(True))
        if most_groups:
            now = state.learned.sum() % consolidate_every == 0
            state = jax.lax.cond(now, consolidated, lambda key, state: state, key, state)
        vars, n = state.model.vars, state.num_learned
        of_tasks = state.classes, state.learned, head
        parts = vars.params, vars.stats, state.groups, sparsity_weight, *of_tasks
        return state.replace(
            kept=state.kept.at[n].set(numbers_kept(*parts)),
            official=state.official.at[n].set(official_percent(*parts, task.index)),
            num_learned=n + 1,
        )

    def consolidated(key: Array, state: ApdState) -> ApdState:
        num = num_groups(state.learned.sum(), consolidate_every, clusters)
        vars, counts = state.model.vars, (num, state.num_groups)
        residues, groups = consolidate_layers(
            key, vars.params.residues, state.groups, state.learned, *counts, agreement_gap
        )
        vars = vars.replace(params=vars.params.replace(residues=residues))
        return state.replace(model=state.model.replace(vars=vars), groups=groups, num_groups=num)

    def predict(state: ApdState, x: Array, task: Task) -> Array:
        t, vars = told_or_last_task(task, state.task), state.model.vars
        kernels = composed_at_test(vars.params, state.groups, t, sparsity_weight)
        mine = variables_of_task(vars, kernels, t)
        logits, _ = net.apply(mine, augment.test(x), train=False)
        return logits.astype(jnp.float32)

    def capacity(state: ApdState) -> Mapping[str, Array]:
        vars = state.model.vars
        one = one_network(vars.params, vars.stats, state.classes, head)
        return {
            "bits": 32 * state.kept,
            "percent of one network": 100 * state.kept / one,
            "percent, official count": state.official,
        }

    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        needs=Needs(told_task=True, told_task_at_test=True, boundaries=True),
        capacity=capacity,
    )


def forget(state: ApdState, task: Array) -> ApdState:
    """The state without anything of one task: its answers become chance, all others stay.

    Args:
      state: of APD.
      task: int32[] the number of the task.

    Returns:
      The state with zeros for the task's residues, masks, last layer, the rest of its own and its
      anchor, so that all its logits are 0 and nothing pulls at it. Other tasks are answered as
      before, bit for bit. What the task left in the weights that all share stays there.
    """

    def zeroed(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.at[task].set(0), tree)

    params = state.model.vars.params
    stacked = {n: leaf.ndim == params.residues[n].ndim for n, leaf in state.anchor.items()}
    params = params.replace(
        residues=zeroed(params.residues), masks=zeroed(params.masks), own=zeroed(params.own)
    )
    return state.replace(
        model=state.model.replace(vars=state.model.vars.replace(params=params)),
        anchor={n: zeroed(leaf) if stacked[n] else leaf for n, leaf in state.anchor.items()},
        groups={n: g.replace(member=g.member.at[task].set(-1)) for n, g in state.groups.items()},
        learned=state.learned.at[task].set(False),
    )
