"""DER and DER++: the card's oracle, whole steps by hand, what is stored, what is drawn."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.methods.replay.der import der, derpp
from tests.support.drive import CLASSES, NAMES, Drive, batch, label_of
from tests.support.nets import normed_net, shown
from tests.support.numpy_mlp import ce, descended, logits_of, mse
from tests.support.problems import flat_augment, own_problem, telling_problem

RATE, ALPHA, BETA = 0.4, 0.3, 0.7
KINDS = {
    "der": (der, {"learning_rate": RATE, "logit_weight": ALPHA}, 1),
    "derpp": (derpp, {"learning_rate": RATE, "logit_weight": ALPHA, "label_weight": BETA}, 2),
}
"""factory, hyper-parameters, replay draws a step."""


def drive(kind, memory_size=8, replay_size=3, tells=True):
    factory, hyper, _ = KINDS[kind]
    sizes = {"memory_size": memory_size, "replay_size": replay_size}
    return Drive(factory(telling_problem(tells=tells), **sizes, **hyper))


def by_hand(kind, params, stream, draws, kept):
    """(loss, parameters after the step) from the definition; ``kept`` maps names to logits."""
    value, gradient = ce(params, stream)
    terms, total = [(1, gradient)], value
    if len(draws[0]):
        value, gradient = mse(params, draws[0], np.stack([kept[name] for name in draws[0]]))
        terms, total = [*terms, (ALPHA, gradient)], total + ALPHA * value
    if kind == "derpp" and len(draws[1]):
        value, gradient = ce(params, draws[1])
        terms, total = [*terms, (BETA, gradient)], total + BETA * value
    return total, descended(params, RATE, *terms)


STREAM = [([0, 21, 5, 30], 4), ([41, 1, 62, 3], 3), ([80, 100, 7, 9], 4), ([90, 110, 119, 2], 4)]
"""Names and how many of them are no padding: the fourth batch overflows the eight slots."""


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_the_paper(kind):
    """Loss, parameters and stored logits of four steps, with the draws that the network tells."""
    learner, draws = drive(kind), KINDS[kind][2]
    params, kept = learner.params, {}
    for number, (names, num_valid) in enumerate(STREAM):
        held = set(kept) & set(learner.held()[: min(8, len(kept))])
        metrics = learner.step(names, num_valid)
        stream, *drawn = shown(learner, 1 + draws)
        assert sorted(stream) == sorted(names[:num_valid])
        for draw in drawn:
            assert len(draw) == (0 if number == 0 else 3)
            assert set(draw) <= held
        total, after = by_hand(kind, params, stream, drawn, kept)
        np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
        chex.assert_trees_all_close(learner.params, after, rtol=1e-4, atol=1e-6)
        kept |= dict(zip(names, logits_of(params, names[:num_valid]), strict=False))
        params = after
        held = learner.held()[: min(8, len(kept))]
        stored = learner.slots("logits")[: len(held)]
        expected = np.stack([kept[name] for name in held])
        np.testing.assert_allclose(stored, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(learner.state.memory.slots["y"][: len(held)], label_of(held))
    assert len(kept) == 15
    assert len(set(held) & {90, 110, 119, 2}) > 0


def test_logits_are_those_before_the_step():
    learner = drive("der")
    before = learner.params
    learner.step([0, 21, 41, 61])
    stored = learner.slots("logits")[:4]
    np.testing.assert_allclose(stored, logits_of(before, [0, 21, 41, 61]), rtol=1e-4, atol=1e-5)
    assert np.abs(stored - logits_of(learner.params, [0, 21, 41, 61])).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_one_forward_for_all_is_the_same_step(kind):
    """A network without statistics takes stream and draws in one pass."""
    telling, silent = drive(kind), drive(kind, tells=False)
    for names, num_valid in STREAM:
        telling.step(names, num_valid), silent.step(names, num_valid)
    chex.assert_trees_all_close(telling.params, silent.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(telling.state.memory, silent.state.memory, rtol=1e-5, atol=1e-6)


def constant(learner, logits):
    """The learner's state with a network that gives these logits whatever it sees."""
    model = learner.state.model
    params = {**jax.tree.map(jnp.zeros_like, model.vars.params), "b2": jnp.asarray(logits)}
    return learner.state.replace(model=model.replace(vars=model.vars.replace(params=params)))


@pytest.mark.parametrize("kind", KINDS)
def test_oracle(kind):
    """h' = [1, 2, 3], z' = [1, 0, 3], alpha .3: .3 * 4 / 3 = .4; DER++ adds beta * CE."""
    learner = drive(kind, replay_size=8)
    for names in ([0, 20, 40, 1], [21, 41, 2, 22]):
        learner.step(names)
    state = constant(learner, [1.0, 2, 3, 1, 2, 3])
    kept = jnp.tile(jnp.array([1.0, 0, 3, 1, 0, 3]), (8, 1))
    memory = state.memory.replace(slots={**state.memory.slots, "logits": kept})
    state = state.replace(memory=memory)
    _, metrics = learner.fn("step", "train")(jax.random.key(0), state, batch([0, 20, 40, 41]))
    scale = np.log(2 * np.exp([1, 2, 3]).sum())
    expected = (4 * scale - (1 + 2 + 3 + 3)) / 4 + 0.4
    if kind == "derpp":
        expected += BETA * (8 * scale - (3 * 1 + 3 * 2 + 2 * 3)) / 8
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


def test_the_second_draw_is_independent_of_the_first():
    """Two draws of 4 from 16 share one on average, and every example comes as often."""
    learner = drive("derpp", memory_size=16, replay_size=4)
    for start in range(0, 64, 16):
        learner.step(range(start, start + 4))
    runs = 400
    keys = jax.random.split(jax.random.key(1), runs)
    step = jax.jit(jax.vmap(learner.fn("step", "train"), in_axes=(0, None, None)))
    states, _ = step(keys, learner.state, batch([100, 101, 102, 103]))
    first, second = np.asarray(states.model.vars.stats["shown"]).transpose(1, 0, 2)[-2:]
    np.testing.assert_array_equal(first.sum(1), 4)
    np.testing.assert_array_equal(second.sum(1), 4)
    shared = (first * second).sum(1).mean()
    assert abs(shared - 1) < 0.2  # standard error 0.04
    for draw in (first, second):
        often = draw.mean(0)[np.unique(learner.held())]
        assert np.abs(often - 0.25).max() < 0.1  # standard error 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_batch_statistics_see_the_stream_then_each_draw(kind):
    """The draws are the whole memory here; the stored logits are the stream's among themselves."""
    factory, hyper, draws = KINDS[kind]
    net, augment = normed_net(CLASSES), flat_augment()
    problem = own_problem(net, augment=augment, num_classes=CLASSES)
    method = factory(problem, memory_size=8, replay_size=8, **hyper)
    step = jax.jit(method.phases[0].step)
    state = method.init(jax.random.key(0), batch([0, 1, 2, 3]))
    for number, names in enumerate(([0, 21, 42, 63], [84, 105, 6, 27])):
        state, _ = step(jax.random.key(number), state, batch(names))
    new = batch([NAMES - 1, 50, 70, 90], num_valid=3)
    after, _ = step(jax.random.key(9), state, new)
    vars, x = state.model.vars, augment.test(new.x)
    logits, stats = net.apply(vars, x, train=True, valid=new.valid)
    for _ in range(draws):
        memory = augment.test(state.memory.slots["x"])
        _, stats = net.apply(vars.replace(stats=stats), memory, train=True)
    chex.assert_trees_all_close(after.model.vars.stats, stats, rtol=1e-4, atol=1e-6)
    held = np.asarray(after.memory.slots["x"])[:, 0, 0, 0]
    slots = [int(np.flatnonzero(held == name)[0]) for name in (NAMES - 1, 50, 70) if name in held]
    rows = [row for row, name in enumerate((NAMES - 1, 50, 70)) if name in held]
    assert rows
    np.testing.assert_allclose(
        after.memory.slots["logits"][jnp.array(slots)],
        logits[jnp.array(rows)],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_larger_than_the_memory_is_refused(kind):
    with pytest.raises(InputError, match="replay_size=9 must be between 1 and the memory's 8"):
        drive(kind, replay_size=9)
