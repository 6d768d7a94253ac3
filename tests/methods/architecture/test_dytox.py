"""DyTox by hand: whole steps against the official loops in float64, the memory, the answers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from cls_jax.core.augment import recipe
from cls_jax.core.errors import InputError
from cls_jax.core.herding import herd
from cls_jax.methods.architecture.dytox import dytox
from cls_jax.methods.architecture.dytox_losses import mix_up
from cls_jax.methods.architecture.dytox_memory import by_age, memory_batch
from cls_jax.methods.prototypes.exemplars import mix_exemplars, no_exemplars
from cls_jax.nets.registry import NetConfig, networks
from tests.support import official_dytox as official
from tests.support.drive import Drive, made_batch, task_of
from tests.support.problems import Problem

WIDTH, HEADS, MEMORY = 8, 2, 12
SMALL = {
    "memory_size": MEMORY,
    "replay_size": 6,
    "num_blocks": 1,
    "head_size": 4,
    "warmup_epochs": 1,
    "cosine_epochs": 4,
    "finetune_epochs": 2,
    "finetune_batch_size": 5,
    "learning_rate": 0.01,
    "finetune_learning_rate": 0.002,
    "weight_decay": 0.1,
    "drop_path_rate": 0.0,
    "divergence_weight": 0.5,
}
"""Rates and decay so large that every part of a step shows."""


def problem(dtype="float32", num_classes=6):
    nets = networks(NetConfig(net="vit", width=WIDTH, dtype=dtype))
    return Problem(nets, recipe((4, 4, 3), normalisation="half"), num_classes, 3)


def picture(name):
    return np.random.default_rng(name).integers(0, 256, (4, 4, 3), np.uint8)


def batch(names, num_valid=None, **kind):
    """Twenty names a class, as in tests.support.drive; 4x4 pixels."""
    x = np.stack([picture(name) for name in names])
    return made_batch(x, np.array(names) // 20, valid=num_valid, **kind)


def data(task):
    """All examples of a task, five of each of its two classes, and padding."""
    return batch([40 * task + 20 * c + i for c in (0, 1) for i in range(5)] + [0, 0], 10, task=task)


def driven(dtype="float32", tasks=2, **changes):
    """Into the first phase of the last of some tasks, the memory filled by those before."""
    drive = Drive(dytox(problem(dtype), **{**SMALL, **changes}), batch, ([0, 1, 2, 3],))
    for task in range(tasks):
        drive.begin(task_of(task), data(task))
        if task + 1 < tasks:
            drive.step([40 * task, 40 * task + 20, 40 * task + 1, 40 * task + 21], task=task)
            drive.enter("finetune", task_of(task), data(task))
            drive.step([0, 0, 0, 0], 0, task=task, phase="finetune")
    return drive


def flat(tree):
    return {path: np.asarray(leaf, np.float64) for path, leaf in flatten_dict(tree).items()}


def decay_of(path):
    return float(np.float32(0.1)) * (path[-1] in ("kernel", "tokens", "places"))


# --- whole steps, float64 -------------------------------------------------------------------------


def inputs(x):
    return jnp.asarray((np.asarray(x) / np.float32(255) - 0.5) / 0.5, jnp.float64)


def hot(y, num_classes):
    return jnp.asarray(np.eye(num_classes)[np.asarray(y)])


def mixed_inputs(key, x, y, valid, mixup):
    """What the official loader hands over: images and targets over four classes."""
    if not mixup:
        return inputs(x), hot(y, 4)
    seen = jnp.arange(6) < 4
    x, targets = mix_up(
        jax.random.split(key)[1], jnp.asarray(inputs(x), jnp.float32), y, valid, seen
    )
    return jnp.asarray(x, jnp.float64), jnp.asarray(targets[:, :4], jnp.float64)


@jax.jit
def answers(params, x):
    """[b, 4] logits of the four classes known."""
    return official.logits(params, official.embeddings(params, x, HEADS), [0, 0, 1, 1])


@jax.jit
@jax.value_and_grad
def main_loss(flat, x, targets, z_old, weight):
    """The first phase of the second task, rows by weight."""
    params = unflatten_dict(flat)
    seen = official.embeddings(params, x, HEADS)
    z = official.logits(params, seen, [0, 0, 1, 1])
    z_div = official.divergence(params, seen[:, 1], [2, 3])

    def of_row(*row):
        return official.total(*(part[None] for part in row), 2, 0.5)

    return jax.vmap(of_row)(z, z_div, z_old, targets) @ weight / weight.sum()


@jax.jit
@jax.value_and_grad
def second_loss(flat, x, targets):
    """The second phase."""
    return official.bce(answers(unflatten_dict(flat), x), targets)


def loaded(drive, key, given, mixup):
    """What ``main_loss`` is given in the step of this key."""
    state, keys = drive.state, jax.random.split(key, 5)
    args = state.memory, given, state.task_size, SMALL["replay_size"]
    mixed = mix_exemplars(keys[0], keys[1], *args)
    weight = jnp.asarray(mixed.weight, jnp.float64)
    assert (weight[4:] > 0).any()
    x, targets = mixed_inputs(keys[2], mixed.x, mixed.y, mixed.weight > 0, mixup)
    return x, targets, answers(state.old, x)[:, :2], weight


def moves(path, *, finetune):
    """Of two tasks known of three, four classes of six; the second one is new."""
    part, tokens = path[0], np.array([finetune, 1, 0])
    classes = np.repeat(tokens, 2)
    if part in ("encoder", "divergence"):
        return 1.0 - finetune
    if part == "decoder":
        return 1.0
    rows = classes if path[-1] in ("kernel", "bias") else tokens
    return rows if path[-1] == "bias" else rows[:, None]


@pytest.mark.more
@pytest.mark.parametrize("variant", ["dytox", "dytox++"])
def test_two_steps_of_a_later_task_are_the_official_ones(variant):
    """Teacher, weights of the losses, divergence head, frozen heads, AdamW, rates of two epochs;
    and of DyTox++ the mixed images, which DyTox+ has too, and the gradient where ASAM climbs."""
    better, moved, slopes = variant == "dytox++", partial(moves, finetune=False), []
    with jax.enable_x64(True):
        drive = driven("float64", mixup=better, sam=better)
        start = drive.state.model.vars.params
        assert drive.state.memory.seen == 10
        for number, names in enumerate(([40, 60, 41, 61], [42, 62, 43, 0])):
            given = batch(names, 4 - number, task=1, epoch=1 + number)
            args = loaded(drive, jax.random.key(drive.clock + 1), given, better)
            expected, _ = main_loss(flat(drive.state.model.vars.params), *args)

            def slope(params, args=args):
                _, g = main_loss(params, *args)
                return {path: np.asarray(leaf) * moved(path) for path, leaf in g.items()}

            def of_step(params, slope=slope):
                g = slope(params)
                if not better:
                    return g
                norm = np.sqrt(sum(((np.abs(params[p]) * g[p]) ** 2).sum() for p in g)) + 1e-12
                return slope({p: v + 3.0 * v**2 * g[p] / norm for p, v in params.items()})

            slopes.append(of_step)
            metrics = drive.step(names, 4 - number, task=1, epoch=1 + number)
            assert abs(float(metrics["loss"]) - float(expected)) < 1e-6
        expected = official.adamw(flat(start), slopes, rates_of((1e-6, 0.01)), decay_of, moved)
        assert_equal_params(drive.state.model.vars.params, expected, start)


def rates_of(rates):
    """Epoch 1 has the first rate; epoch 2 is place 1: the top of a cosine of four epochs, k = 1."""
    top, last = (float(np.float32(r)) for r in (rates[1], 1e-5))
    return float(np.float32(rates[0])), last + (top - last) * (1 + np.cos(np.pi / 4)) / 2


def assert_equal_params(found, expected, start):
    """To the last digits that float32 rates leave, of how far they have moved."""
    far = 0
    for path, leaf in flatten_dict(found).items():
        moved = np.abs(expected[path] - flatten_dict(start)[path]).max()
        np.testing.assert_allclose(
            leaf, expected[path], rtol=0, atol=1e-5 * moved + 1e-12, err_msg=path
        )
        far += moved > 1e-3
    assert far > 10


@pytest.mark.more
def test_two_steps_of_the_second_phase_are_the_official_ones():
    """Labels alone, the encoder frozen, all known tokens and heads, one constant rate."""
    with jax.enable_x64(True):
        drive = driven("float64", finetune_order="as_in_code")
        drive.enter("finetune", task_of(1), data(1))
        state, moved = drive.state, partial(moves, finetune=True)
        order, slots = np.asarray(state.order), state.memory.slots
        assert state.memory.seen == 12
        start, slopes = flat(state.model.vars.params), []
        for number in range(2):
            rows = order[5 * number : 5 * number + 5]
            args = inputs(slots["x"][rows]), hot(slots["y"][rows], 4)

            def slope(params, args=args):
                _, g = second_loss(params, *args)
                return {path: np.asarray(leaf) * moved(path) for path, leaf in g.items()}

            slopes.append(slope)
            drive.step([0] * 4, 0, task=1, phase="finetune")
        rates = [float(np.float32(0.002))] * 2
        expected = official.adamw(start, slopes, rates, decay_of, moved)
        assert_equal_params(drive.state.model.vars.params, expected, state.model.vars.params)
        after = flat(drive.state.model.vars.params)
        still = [path for path in start if path[0] in ("encoder", "divergence")]
        assert still
        assert all((after[path] == start[path]).all() for path in still)
        for number in range(2, 6):  # two passes of two whole batches are over
            drive.step([0] * 4, 0, task=1, phase="finetune")
            if number == 3:
                last = drive.state.model
        jax.tree.map(np.testing.assert_array_equal, drive.state.model, last)


# --- the memory of the second phase ---------------------------------------------------------------


def memory_of(y, capacity):
    """A memory whose slot i holds image i, one exemplar a slot."""
    memory = no_exemplars(batch([0]), capacity)
    held, y = len(y), np.array(y)
    rank = [(y[:i] == c).sum() for i, c in enumerate(y)]
    pad = (0, capacity - held)
    slots = {
        "x": memory.slots["x"].at[:, 0, 0, 0].set(jnp.arange(capacity, dtype=jnp.uint8)),
        "y": jnp.asarray(np.pad(y, pad), jnp.int32),
        "rank": jnp.asarray(np.pad(rank, pad), jnp.int32),
    }
    return memory.replace(slots=slots, seen=jnp.int32(held))


def passes(memory, order, size, steps, *, shuffled):
    """Slots of each step, and its epoch."""
    found = []
    for number in range(steps):
        key = jax.random.key(number)
        drawn = memory_batch(key, memory, order, jnp.int32(number), size, shuffled=shuffled)
        order = drawn.order
        slots = np.asarray(drawn.x[:, 0, 0, 0])[np.asarray(drawn.valid)].tolist()
        found.append((int(drawn.epoch), slots))
    return found


def test_a_shuffled_pass_sees_each_exemplar_once_its_last_batch_too():
    memory = memory_of([0, 0, 1, 1, 2, 2, 3], 9)
    found = passes(memory, jnp.arange(9, dtype=jnp.int32), 3, 6, shuffled=True)
    assert [epoch for epoch, _ in found] == [0, 0, 0, 1, 1, 1]
    first, second = ([s for e, slots in found if e == epoch for s in slots] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert [len(slots) for _, slots in found] == [3, 3, 1] * 2


def test_as_in_the_code_the_newest_classes_are_never_seen():
    """Classes 2 and 3 came first, 0 last; of seven exemplars in threes its one is left out."""
    memory = memory_of([0, 1, 1, 2, 2, 3, 3], 9)
    order = by_age(memory, jnp.array([2, 1, 0, 0]))
    assert order[:7].tolist() == [3, 4, 5, 6, 1, 2, 0]
    found = passes(memory, order, 3, 4, shuffled=False)
    assert found == [(0, [3, 4, 5]), (0, [6, 1, 2]), (1, [3, 4, 5]), (1, [6, 1, 2])]
    assert passes(memory, order, 8, 1, shuffled=False) == [(0, [])]


def test_of_2000_in_batches_of_128_the_code_drops_80_the_four_newest_classes():
    """The card's addenda: at step 10 of CIFAR-100 classes 96 to 99 are never fine-tuned."""
    y = np.repeat(np.arange(100), 20)
    memory = no_exemplars(batch([0]), 2000)
    slots = {**memory.slots, "y": jnp.asarray(y, jnp.int32)}
    memory = memory.replace(slots=slots, seen=jnp.int32(2000))
    order, met = by_age(memory, jnp.arange(100) // 10), set()
    draw = jax.jit(lambda s: memory_batch(None, memory, order, s, 128, shuffled=False))
    for number in range(16):
        drawn = draw(jnp.int32(number))
        met |= {*np.asarray(drawn.y)[np.asarray(drawn.valid)].tolist()}
    assert {*range(100)} - met == {96, 97, 98, 99}
    assert int(drawn.epoch) == 1  # the sixteenth batch is the first of the next pass


def test_o8_the_herding_order():
    features = jnp.array([[1, 0], [0, 1], [0.28, 0.96]])
    rank = herd(features, jnp.zeros(3, jnp.int32), jnp.ones(3, bool), 3, 1)
    assert np.argsort(np.asarray(rank)).tolist() == [2, 0, 1]


# --- answers and states ---------------------------------------------------------------------------


def shaped(**changes):
    """The state's shapes; nothing is computed."""
    method = dytox(problem(), **{**SMALL, **changes})
    return method, jax.eval_shape(method.init, jax.random.key(0), batch([0, 1]))


def test_a_token_is_all_that_a_task_adds_beside_its_classes():
    """KiB grow by 3 widths a task and a row a class: of 100 classes in 10 tasks in the paper's net
    10,733,584 numbers in the end."""
    nets = networks(NetConfig(net="vit", width=384))
    whole = Problem(nets, recipe((32, 32, 3), normalisation="half"), 100, 10)
    method = dytox(whole)
    x = np.zeros((1, 32, 32, 3), np.uint8)
    state = jax.eval_shape(method.init, jax.random.key(0), made_batch(x, [0]))
    learned = {"seen": jnp.ones(100, bool), "owner": jnp.arange(100) // 10}

    def capacity(state):
        return method.algorithm.capacity(state.replace(**learned))

    bits = jax.jit(lambda: capacity(zeros(state)))()["bits"] / 32
    assert bits[-1] == 10_733_584
    np.testing.assert_array_equal(np.diff(bits), 3 * 384 + 10 * 385)


def zeros(state):
    """A state of these shapes, for a function of shapes alone."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)


def test_without_task_tokens_there_is_one_token_and_one_head():
    _, state = shaped(task_tokens=False)
    params = state.model.vars.params
    assert params["tokens"].shape == params["heads"]["scale"].shape == (1, WIDTH)
    assert params["heads"]["kernel"].shape == (6, WIDTH)


def test_names_and_phases_of_the_variants():
    names = {(False, False): "dytox", (True, False): "dytox+", (True, True): "dytox++"}
    for (mixup, sam), name in names.items():
        method, _ = shaped(mixup=mixup, sam=sam)
        assert method.name == name
        assert [phase.name for phase in method.phases] == ["train", "finetune"]
        assert method.phases[1].num_steps == 2 * 3
    method, _ = shaped(finetune_epochs=0)
    assert [phase.name for phase in method.phases] == ["train"]
    assert method.needs.end_data
    assert not shaped(finetune_epochs=0, memory_size=0)[0].needs.end_data
    assert shaped(joint=True)[0].needs.pooled


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"memory_size": 5}, "memory_size=5 gives none of the 6 classes"),
        ({"memory_size": 0}, "finetune_epochs is 2 and memory_size 0"),
        ({"replay_size": 0}, "replay_size is 0"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
        ({"cosine_epochs": 0}, "cosine_epochs is 0"),
        ({"finetune_epochs": -1}, "finetune_epochs is -1"),
        ({"finetune_batch_size": 0}, "finetune_batch_size is 0"),
        ({"finetune_order": "random"}, "finetune_order is 'random'"),
        ({"drop_path_rate": 1.5}, "drop_path_rate is 1.5"),
        ({"sam_radius": -1.0}, "sam_radius is -1"),
        ({"num_blocks": 0}, "num_blocks is 0"),
    ],
)
def test_what_cannot_work_is_one_sentence(changes, named):
    with pytest.raises(InputError, match=named):
        dytox(problem(), **{**SMALL, **changes})
