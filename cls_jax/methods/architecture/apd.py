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

| symbol | name | default | where from |
|---|---|---|---|
| lambda1 | sparsity_weight | 4e-4 | jaehong31/APD, CIFAR-100 split (superclass: 6e-4) |
| lambda2 | drift_weight | 100.0 | the same |
| | weight_decay | 1e-4 | the same |
| | mask_weight | 0.0 | the same |
| beta | agreement_gap | 1e-2 | the same |
| s, k | consolidate_every, clusters | 5, 2 | the same: APD(2); 0 is APD(1) |
| | residue_scale | 1/3 | wyjeong/FedWeIT: tau_t starts as sigma / 3 (APD: 1) |
| eta | learning_rate | 1e-3 | jaehong31/APD: Adam, started anew with each task, |
| | annealing_rate, annealing_steps | 0.95, 40 | times 0.95 an epoch of 40 steps |

Keep the last rate below lambda1, or nothing becomes sparse: Adam leaves an unused tau about as
large as its step. And let the rate fall slowly: what the first steps moved needs as many to return.

What is kept is counted twice: "percent of one network" is all that the answers need, over a plain
network for one task; "percent, official count" is what the official code prints: last layer and
biases of the newest task alone, over the shared kernels and the last layers of earlier tasks.

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
import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.losses import cross_entropy, half_squared, magnitude
from cls_jax.core.types import Array, Batch, Metrics, Task, Trainable, Variables
from cls_jax.methods.architecture.apd_config import ApdConfig, ApdHyper, check_clusters
from cls_jax.methods.architecture.apd_consolidation import (
    Groups,
    consolidate,
    no_groups,
    num_groups,
)
from cls_jax.methods.architecture.apd_weights import (
    ApdParams,
    Layers,
    absolute,
    born,
    composed_at_test,
    composed_for,
    composed_for_all,
    numbers_kept,
    official_percent,
    one_network,
    own_squares,
    together,
    way,
)
from cls_jax.methods.base import Method, Needs, Phase, gradient_step, told_rows
from cls_jax.methods.heads import annealed_adam, asked, check_annealing, check_head, row
from cls_jax.nets.base import Net


@struct.dataclass
class ApdState:
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
      hyper: ApdHyper.
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
    hyper: ApdHyper


def apd(
    config: ApdConfig, net: Net, *, augment: Augment, num_classes: int, num_tasks: int
) -> Method:
    """Additive parameter decomposition.

    Args:
      config: which variant.
      net: outputs float32[b, num_classes] logits; names its head.
      augment: ``train`` makes the inputs of the loss, ``test`` those of ``predict``.
      num_classes, num_tasks: of the stream, in which every task comes once.

    Returns:
      The method; its hyper is ApdHyper.

    Raises:
      InputError: if the network names no last layer, or a number of the config cannot be.
    """
    check_head("apd", net)
    check_annealing(config.annealing_steps)
    room = check_clusters(config, num_tasks)

    def optimizer(hyper: ApdHyper) -> optax.GradientTransformation:
        rates = hyper.learning_rate, hyper.annealing_rate
        return annealed_adam(*rates, config.annealing_steps)

    def init(key: Array, example: Batch, hyper: ApdHyper) -> ApdState:
        vars = born(key, net, augment.test(example.x), num_tasks)
        residues, shared = vars.params.residues, vars.params.shared
        anchor = residues if config.retroactive else shared
        return ApdState(
            model=Trainable(vars=vars, opt=optimizer(hyper).init(vars.params)),
            anchor=jax.tree.map(jnp.zeros_like, anchor),
            groups={n: no_groups(leaf, room) for n, leaf in residues.items() if room},
            num_groups=jnp.int32(0),
            task=jnp.int32(0),
            classes=jnp.zeros((num_tasks, num_classes), bool),
            learned=jnp.zeros((num_tasks,), bool),
            num_learned=jnp.int32(0),
            kept=jnp.zeros((num_tasks,), jnp.float32),
            official=jnp.zeros((num_tasks,), jnp.float32),
            hyper=hyper,
        )

    def begin_task(key: Array, state: ApdState, task: Task, data: Batch | None) -> ApdState:
        t, p, scale = task.index, state.model.vars.params, state.hyper.residue_scale
        begun = {n: leaf.at[t].set(scale * p.shared[n]) for n, leaf in p.residues.items()}
        params = p.replace(residues=begun)
        return state.replace(
            model=Trainable(
                vars=state.model.vars.replace(params=params),
                opt=optimizer(state.hyper).init(params),
            ),
            anchor=composed_for_all(p) if config.retroactive else jax.tree.map(jnp.copy, p.shared),
            task=t,
            classes=state.classes.at[t].set(task.classes),
        )

    def step(key: Array, state: ApdState, batch: Batch) -> tuple[ApdState, Metrics]:
        hyper, t, x = state.hyper, state.task, augment.train(key, batch.x)
        old = state.learned.at[t].set(False)
        counted = told_rows(batch, state.classes[t])

        def loss(vars: Variables):
            p, stats = vars.params, row(vars.stats, t)
            mine = Variables(params=together(composed_for(p, t), row(p.own, t)), stats=stats)
            logits, stats = net.apply(mine, x, train=True, valid=counted)
            learned = cross_entropy(logits, batch.y, valid=counted, classes=state.classes[t])
            every = jax.tree.map(lambda leaf, new: leaf.at[t].set(new), vars.stats, stats)
            moving = (old if config.retroactive else jnp.zeros_like(old)).at[t].set(True)
            kept = hyper.sparsity_weight * absolute(p.residues, moving)
            kept += hyper.drift_weight * drifted(p, state.anchor, old)
            kept += hyper.weight_decay * own_squares(p, t, first=~old.any())
            kept += hyper.mask_weight * sum(magnitude(mask[t]).sum() for mask in p.masks.values())
            return learned + kept, every

        model, value = gradient_step(state.model, optimizer(hyper), loss)
        return state.replace(model=model), {"loss": value}

    def drifted(params: ApdParams, anchor: Layers, old: Array) -> Array:
        if not config.retroactive:
            return jnp.where(old.any(), half_squared(params.shared, anchor), 0)
        if not config.train_old_masks:
            params = params.replace(masks=jax.lax.stop_gradient(params.masks))
        return way(composed_for_all(params), anchor, old)

    def end_task(key: Array, state: ApdState, task: Task, data: Batch | None) -> ApdState:
        state = state.replace(learned=state.learned.at[task.index].set(True))
        if room:
            now = state.learned.sum() % config.consolidate_every == 0
            state = jax.lax.cond(now, consolidated, lambda key, state: state, key, state)
        vars, size = state.model.vars, state.hyper.sparsity_weight
        of_tasks = state.classes, state.learned, net.head
        parts = vars.params, vars.stats, state.groups, size, *of_tasks
        n, percent = state.num_learned, official_percent(*parts, task.index)
        return state.replace(
            kept=state.kept.at[n].set(numbers_kept(*parts)),
            official=state.official.at[n].set(percent),
            num_learned=n + 1,
        )

    def consolidated(key: Array, state: ApdState) -> ApdState:
        num = num_groups(state.learned.sum(), config.consolidate_every, config.clusters)
        params, residues, groups = state.model.vars.params, {}, {}
        keys = jax.random.split(key, len(params.residues))
        for key_layer, (n, leaf) in zip(keys, params.residues.items(), strict=True):
            residues[n], groups[n] = consolidate(
                key_layer,
                leaf,
                state.groups[n],
                state.learned,
                num,
                state.num_groups,
                state.hyper.agreement_gap,
            )
        vars = state.model.vars.replace(params=params.replace(residues=residues))
        model = state.model.replace(vars=vars)
        return state.replace(model=model, groups=groups, num_groups=num)

    def predict(state: ApdState, x: Array, task: Task) -> Array:
        t, vars, size = asked(task, state.task), state.model.vars, state.hyper.sparsity_weight
        kernels = composed_at_test(vars.params, state.groups, t, size)
        mine = Variables(
            params=together(kernels, row(vars.params.own, t)), stats=row(vars.stats, t)
        )
        logits, _ = net.apply(mine, augment.test(x), train=False)
        return logits.astype(jnp.float32)

    def capacity(state: ApdState) -> Mapping[str, Array]:
        vars = state.model.vars
        one = one_network(vars.params, vars.stats, state.classes, net.head)
        return {
            "bits": 32 * state.kept,
            "percent of one network": 100 * state.kept / one,
            "percent, official count": state.official,
        }

    return Method(
        "apd",
        init,
        (Phase("train", step),),
        predict,
        begin_task=begin_task,
        end_task=end_task,
        needs=Needs(told_task=True, told_task_at_test=True, boundaries=True),
        convolutional=net.convolutional,
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
    gone = lambda tree: jax.tree.map(lambda leaf: leaf.at[task].set(0), tree)  # noqa: E731
    params = state.model.vars.params
    stacked = {n: leaf.ndim == params.residues[n].ndim for n, leaf in state.anchor.items()}
    params = params.replace(
        residues=gone(params.residues), masks=gone(params.masks), own=gone(params.own)
    )
    alone = lambda g: g.replace(member=g.member.at[task].set(-1))  # noqa: E731
    return state.replace(
        model=state.model.replace(vars=state.model.vars.replace(params=params)),
        anchor={n: gone(leaf) if stacked[n] else leaf for n, leaf in state.anchor.items()},
        groups={n: alone(g) for n, g in state.groups.items()},
        learned=state.learned.at[task].set(False),
    )
