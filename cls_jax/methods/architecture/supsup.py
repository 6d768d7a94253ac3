"""SupSup: one network of random weights that never change, and a binary mask over it for each task.

A task learns real scores, one a weight; the network runs under the mask of the scores, and the
mask's gradient goes to the scores as it is. When the task ends the mask is kept, one bit a weight,
so nothing that was learned can be forgotten. The weights come from a seed. If the task is not told
at test, all masks are mixed and one gradient says which of them the outputs want; outputs that no
label uses make that answer reliable (see superposition.py). If it is not told in training either, a
batch that no mask stands out for gets a new one.

| symbol | name | default | where from |
|---|---|---|---|
| | learning_rate | 1e-4 | official code, all MNIST streams (CIFAR-100, ImageNet: 1e-3) |
| | weight_decay | 0 | official code, MNIST; 1e-4 by its default for CIFAR-100, on the scores |
| s | num_outputs | 100 | official code, LeNet on 250 tasks; 500 with 2500 tasks |
| s_p | density | 8 | ours; the paper has 1 to 32, larger is denser |
| K | decide_every | 100 | the paper's Algorithm 1 |
| | num_compared | 5 | official code: so many masks are compared, even if some are still random |
| 1 + epsilon | new_bound | 1.125 | the paper's epsilon of 2^-3 |
| | known_rate | 1 | ours: 1 leaves it out; 0.9 for small networks, see Departs |

The paper's scenarios, by what is given in training, given at test, and whether labels are shared:
GG, GNs and GNu train alike, so one run has all three. With the task told at test it is GG. With the
task hidden, ``predict`` infers it for each 128 images from the first ``probe_size`` of them, which
is GNs; test images come in an order that their pixels decide, so that of a file decides nothing.
The share of images whose task and label are both right (GNu) is in task_inference.py. NNs is
``told_task=False``. A class of a task is learned as its place among the task's classes, so tasks
share their first outputs, in class-IL streams too.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769); RAIVNLab/supsup. RMSprop as PyTorch's.
Departs: biases are 0 and BatchNorm neither scales nor shifts, which is what layers without them do.
With the task hidden, a network with BatchNorm uses the mean of the known tasks' statistics (the
code: those of the batch). Tasks without an id have their own optimizer state a mask (the code
renews all at the true boundary, which it should not know), and if none is new the best known mask
is taken (the code may take one that is still random). Their boundaries only note how many masks
there are, for the capacity. No running sum of the masks is kept: for 40 groups of test images at a
time, mixing the masks costs little beside their slopes. known_rate: softmax of raw slopes is not
free of scale, and on the small digits a bound alone merges all tasks into two or three masks.
"""

import jax
import jax.numpy as jnp
import optax

from cls_jax.core.augment import Augment
from cls_jax.core.losses import cross_entropy, mask_logits
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.architecture.masked_net import (
    frozen,
    kernels,
    mask_rule,
    num_bits,
    packed,
    under,
    with_kernels,
)
from cls_jax.methods.architecture.supermasks import score_init
from cls_jax.methods.architecture.superposition import is_new
from cls_jax.methods.architecture.supsup_config import (
    GROUPS_AT_A_TIME,
    TOGETHER,
    SupSupConfig,
    SupSupHyper,
    check,
)
from cls_jax.methods.architecture.supsup_inference import (
    SupSupState,
    make_identify,
    uncertainty_slopes,
)
from cls_jax.methods.base import Method, Needs, Phase, gradient_step, told_rows
from cls_jax.nets.base import Net

_TEST_GROUPS = 40
"""Groups of test images that are answered at a time: one pass over all masks serves them all."""


def supsup(
    config: SupSupConfig, net: Net, *, augment: Augment, num_classes: int, num_tasks: int
) -> Method:
    """Supermasks in superposition.

    Args:
      config: choices and sizes.
      net: outputs float32[b, config.num_outputs]; every parameter of two axes or more is masked.
      augment: ``train`` makes the inputs of the loss, ``test`` those of ``predict``.
      num_classes, num_tasks: of the stream.

    Returns:
      The method; its hyper is SupSupHyper. Its answer to a task that was not learned yet is that of
      the mask in training.

    Raises:
      InputError: for tasks without room for a mask, labels without an output, or a size out of
        range.
    """
    num_slots = num_tasks if config.num_masks is None else config.num_masks
    check(config, num_classes, num_tasks, num_slots)
    mask_of = mask_rule(config.rule, config.density)
    identify = make_identify(config, net, augment=augment)

    def newborn(key: Array, weights: PyTree, stats: PyTree, hyper: SupSupHyper) -> Trainable:
        shapes = {name: kernel.shape for name, kernel in kernels(weights).items()}
        keys = jax.random.split(key, len(shapes))
        scores = {n: score_init(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}
        return Trainable(Variables(scores, stats), _optimizer(config, hyper).init(scores))

    def init(key: Array, example: Batch, hyper: SupSupHyper) -> SupSupState:
        key_net, key_weights, key_scores = jax.random.split(key, 3)
        vars = net.init(key_net, augment.test(example.x))
        weights = frozen(key_weights, vars.params)
        born = lambda key: newborn(key, weights, vars.stats, hyper)  # noqa: E731
        slots, masks = {}, jnp.zeros((num_slots, -(-num_bits(weights) // 8)), jnp.uint8)
        if not config.told_task:
            slots = jax.vmap(born)(jax.random.split(key_scores, num_slots))
            masks = jax.vmap(lambda scores: packed(mask_of(scores)))(slots.vars.params)
        model = born(key_scores) if config.told_task else _at(slots, 0)
        repeated = lambda leaf: jnp.repeat(leaf[None], num_slots, axis=0)  # noqa: E731
        return SupSupState(
            weights=weights,
            model=model,
            masks=masks,
            stats=jax.tree.map(repeated, vars.stats),
            classes=jnp.ones((num_slots, num_classes), bool),
            num_masks=jnp.int32(0),
            current=jnp.int32(0),
            clock=jnp.int32(0),
            masks_after=jnp.zeros(num_tasks, jnp.int32),
            total=jax.tree.map(jnp.zeros_like, model.vars.params) if config.transfer else {},
            slots=slots,
            hyper=hyper,
        )

    def begin_task(key: Array, state: SupSupState, task: Task, data: Batch | None) -> SupSupState:
        if not config.told_task:
            return state
        # The statistics of a mask that was never kept are those of a network just born.
        model = newborn(key, state.weights, _at(state.stats, task.index), state.hyper)
        if config.transfer:
            mean = jax.tree.map(lambda leaf: leaf / jnp.maximum(state.num_masks, 1), state.total)
            scores = jax.tree.map(
                lambda old, new: jnp.where(state.num_masks > 0, old, new), mean, model.vars.params
            )
            model = model.replace(vars=model.vars.replace(params=scores))
        classes = state.classes.at[task.index].set(task.classes)
        return state.replace(model=model, classes=classes, current=jnp.copy(task.index))

    def step(key: Array, state: SupSupState, batch: Batch) -> tuple[SupSupState, Metrics]:
        x = augment.train(key, batch.x)
        if not config.told_task:
            state = choose(state, x, batch.valid)
        classes = state.classes[state.current]  # all of them where the task is not told
        y, counted = place_of(classes)[batch.y], told_rows(batch, classes)

        def loss(vars: Variables):
            masks, weights = mask_of(vars.params), kernels(state.weights)
            params = with_kernels(state.weights, jax.tree.map(jnp.multiply, weights, masks))
            logits, stats = net.apply(Variables(params, vars.stats), x, train=True, valid=counted)
            return cross_entropy(logits, y, valid=counted), stats

        model, value = gradient_step(state.model, _optimizer(config, state.hyper), loss)
        state = state.replace(model=model, clock=state.clock + 1)
        return (state if config.told_task else keep(state)), {"loss": value}

    def choose(state: SupSupState, x: Array, valid: Array) -> SupSupState:
        """The mask to train on from here on: one that is known, or the next one."""
        k = state.num_masks
        compared = jnp.arange(num_slots) < jnp.maximum(k, config.num_compared)

        def look() -> tuple[Array, Array]:
            slopes = uncertainty_slopes(config, net, state, x, valid, compared)
            found = slopes(compared / compared.sum())
            hyper = state.hyper
            new, nu = is_new(found, compared, hyper.new_bound, hyper.known_rate)
            new = ((k == 0) | new) & (k < num_slots)
            best = jnp.argmax(jnp.where(jnp.arange(num_slots) < k, nu, -1)).astype(jnp.int32)
            return jnp.where(new, k, best), k + new

        due = ((state.clock % config.decide_every == 0) | (k == 0)) & valid.any()
        current, num_masks = jax.lax.cond(due, look, lambda: (state.current, k))
        model = _at(state.slots, current)
        return state.replace(current=current, num_masks=num_masks, model=model)

    def keep(state: SupSupState) -> SupSupState:
        """The mask in training written where it belongs."""
        put = lambda leaf, new: leaf.at[state.current].set(new)  # noqa: E731
        return state.replace(
            masks=put(state.masks, packed(mask_of(state.model.vars.params))),
            stats=jax.tree.map(put, state.stats, state.model.vars.stats),
            slots=jax.tree.map(put, state.slots, state.model) if not config.told_task else {},
        )

    def end_task(key: Array, state: SupSupState, task: Task, data: Batch | None) -> SupSupState:
        if config.told_task:  # else nothing but the number of masks is noted
            scores = state.model.vars.params
            total = jax.tree.map(jnp.add, state.total, scores) if config.transfer else {}
            num_masks = jnp.maximum(state.num_masks, state.current + 1)
            state = keep(state).replace(num_masks=num_masks, total=total)
        ended = (state.masks_after > 0).sum()
        return state.replace(masks_after=state.masks_after.at[ended].set(state.num_masks))

    def answer(state: SupSupState, x: Array, index: Array) -> Array:
        """Logits over all classes under mask ``index``."""
        learned = index < state.num_masks
        own, stats = packed(mask_of(state.model.vars.params)), state.model.vars.stats
        pick = lambda kept, mine: jnp.where(learned, kept, mine)  # noqa: E731
        bits = pick(state.masks[index], own)
        vars = Variables(
            under(state.weights, bits), jax.tree.map(pick, _at(state.stats, index), stats)
        )
        logits, _ = net.apply(vars, augment.test(x), train=False)
        classes = state.classes[index]
        spread = jnp.take(logits, place_of(classes), axis=1, mode="clip")
        return mask_logits(spread.astype(jnp.float32), classes)

    def capacity(state: SupSupState) -> dict[str, Array]:
        masks = state.masks_after.astype(jnp.float32)
        size = num_bits(state.weights)
        moments = sum(leaf[0].size for leaf in jax.tree.leaves(state.stats))
        return {"bits": masks * (size + 32 * moments), "masks": masks, "weights": jnp.float32(size)}

    def predict(state: SupSupState, x: Array, task: Task) -> Array:
        rows = jnp.arange(-(-len(x) // TOGETHER))[:, None] * TOGETHER + jnp.arange(TOGETHER)
        real, rows = rows < len(x), jnp.minimum(rows, len(x) - 1)

        def one(group: tuple[Array, Array]) -> Array:
            return answer(state, x[group[0]], group[1])

        def whose(group: tuple[Array, Array]) -> Array:
            return identify(state, x[group[0]], group[1])

        def inferred() -> Array:
            probes = rows[:, : config.probe_size], real[:, : config.probe_size]
            if net.convolutional:  # slow in a compiled loop on a CPU, and their batches are small
                logits = [one((row, whose(each))) for row, *each in zip(rows, *probes, strict=True)]
                return jnp.concatenate(logits)[: len(x)]
            found = jax.lax.map(whose, probes, batch_size=GROUPS_AT_A_TIME)
            return jax.lax.map(one, (rows, found)).reshape(-1, num_classes)[: len(x)]

        return jax.lax.cond(
            task.index < 0, inferred, lambda: answer(state, x, jnp.maximum(task.index, 0))
        )

    return Method(
        "supsup",
        init,
        (Phase("train", step),),
        predict,
        begin_task=begin_task,
        end_task=end_task,
        needs=Needs(
            told_task=config.told_task,
            told_task_at_test=config.told_task,
            boundaries=True,
            test_batch=None if net.convolutional else _TEST_GROUPS * TOGETHER,
            transductive=True,
        ),
        convolutional=net.convolutional,
        capacity=capacity,
    )


def place_of(classes: Array) -> Array:
    """int32[num_classes]: the place of each class among ``classes`` bool[num_classes], from 0."""
    return jnp.maximum(jnp.cumsum(classes) - 1, 0).astype(jnp.int32)


def _optimizer(config: SupSupConfig, hyper: SupSupHyper) -> optax.GradientTransformation:
    def rate(count: Array) -> Array:
        if not config.cosine_steps:
            return hyper.learning_rate
        share = jnp.minimum(count / config.cosine_steps, 1)
        return hyper.learning_rate * (1 + jnp.cos(jnp.pi * share)) / 2

    kinds = {
        "rmsprop": optax.rmsprop(rate, decay=0.99, eps=1e-8, eps_in_sqrt=False),
        "adam": optax.adam(rate),
    }
    return optax.chain(optax.add_decayed_weights(hyper.weight_decay), kinds[config.optimizer])


def _at(tree: PyTree, index: Array | int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], tree)
