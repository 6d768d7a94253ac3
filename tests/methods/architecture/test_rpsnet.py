"""RPS-Net: the card's oracles, whole steps again in NumPy, what rests, who is chosen by what."""

from dataclasses import replace
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.methods.architecture.der_expandable_state import NEVER
from cls_jax.methods.architecture.rpsnet import rpsnet
from cls_jax.methods.architecture.rpsnet_choice import class_accuracy, held_out
from cls_jax.methods.architecture.rpsnet_losses import (
    clamped_divergence,
    controller,
    mixed_targets,
    old_divergence,
    weighted_mean,
)
from cls_jax.methods.architecture.rpsnet_paths import few_modules, roles_of, with_chosen
from cls_jax.nets.path_modules import LEARNS, OFF, RESTS
from tests.conftest import small_problem
from tests.support.drive import (
    CLASSES,
    Drive,
    float64,
    label_of,
    padded,
    pictures,
    program,
    task_of,
)
from tests.support.problems import SHIFT, own_problem, shifted_augment

HIDDEN, N, M = (5, 4), 3, 3
SMALL = {
    "num_modules": M,
    "num_candidates": N,
    "path_tasks": 2,
    "memory_size": 12,
    "replay_size": 12,
    "halvings": (2,),
    "learning_rate": 2**-7,
    "distillation_weight": 2.5,
    "held_out_rate": 0.0,
}
FIRST, SECOND = np.arange(0, 40, 3), np.arange(40, 80, 3)  # names of classes 0, 1 and 2, 3
THIRD = np.arange(80, 120, 10)  # of 4, 5: no more than a batch


def drive(*, augment=None, dtype="float32", **arguments):
    augment = shifted_augment() if augment is None else augment
    problem = own_problem(augment=augment, num_classes=CLASSES, hidden=HIDDEN, dtype=dtype)
    method = rpsnet(problem, **{**SMALL, **arguments})
    hyper = {name: jnp.float32(value) for name, value in method.hyper.items()}
    init = partial(program(method.at, "init"), hyper)  # compiled, and shared by the tests
    return Drive(method._replace(algorithm=replace(method.algorithm, init=init, step=None)))


def learn(learner, number, names, steps=3):
    task, data = task_of(number), padded(names)
    learner.begin(task, data)
    for at in range(steps):
        learner.step(names[4 * at : 4 * at + 4])
    learner.end(task, data if learner.method.needs.end_data else None)
    return learner


# --- the card's oracles ---------------------------------------------------------------------------


def test_oracle_of_the_controller():
    """O1: CIFAR, MNIST and ImageNet."""

    def weights(path_tasks, growth, tasks):
        return controller(np.arange(tasks), path_tasks, growth).tolist()

    assert weights(2, 2.5, 10) == [1, 1, 1, 2.5, 5, 7.5, 10, 12.5, 15, 17.5]
    assert weights(1, 2.5, 5) == [1, 1, 2.5, 5, 7.5]
    assert weights(2, 10.0, 10) == [1, 1, 1, *range(10, 80, 10)]


def test_oracle_of_the_losses():
    """O2: terms whose negative ones are dropped; a row without weight has no influence."""
    z = np.array([[1, 0, -1, 0, 0.5, 0.5], [0, 0, 2, 0, 0, 0], [np.nan] * 6])
    old, past, y = np.array([[2, 0], [0, 1], [7, 7]]), np.arange(6) < 2, np.array([0, 3, 5])
    old = np.pad(old, ((0, 0), (0, 4)), constant_values=50)

    @jax.jit
    def every(z, old):
        t = mixed_targets(y, old, past)
        q, p = jax.nn.log_softmax(t / 2), jax.nn.log_softmax(z / 2)
        clamped = clamped_divergence(z, t, 2.0)
        mean = weighted_mean(clamped, jnp.array([1.0, 1, 0]))
        return t, jnp.exp(q) * (q - p), clamped, mean, old_divergence(z, old, past, 2.0)

    with jax.enable_x64(True):
        t, terms, clamped, mean, kl = map(
            np.asarray, every(jnp.asarray(z), jnp.asarray(old, float))
        )
    assert t[:2].tolist() == [[2, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0]]
    expected = [
        [0.1326872661, -0.0159683399, 0.0488129173, -0.0159683399, -0.0483589684, -0.0483589684],
        [0.0076832161, 0.1256331723, -0.1293510934, 0.1256331723, 0.0076832161, 0.0076832161],
    ]
    np.testing.assert_allclose(terms[:2], expected, atol=1e-10)
    np.testing.assert_allclose(clamped[:2].sum(), 0.4558161764, rtol=1e-9)
    np.testing.assert_allclose(mean, 0.4558161764 / 2, rtol=1e-9)
    q, p = softmax(np.array([[2, 0], [0, 1]]) / 2), softmax(z[:2, :2] / 2)
    np.testing.assert_allclose(kl[:2], (q * np.log(q / p)).sum(1), rtol=1e-9)


def test_oracle_of_the_bookkeeping():
    """O4: two layers, three modules; what is on an earlier path rests."""

    def roles(came, path):
        return np.asarray(roles_of(came, jnp.array(path))).tolist()

    def joined(came, path, drawn):
        state = first.replace(came=came, paths=jnp.array([path] * N), drawn=drawn)
        return with_chosen(state)

    first = drive().state
    none = jnp.full((2, 3), NEVER)
    assert roles(none, [0, 0]) == [[LEARNS, OFF, OFF]] * 2
    came = joined(none, [0, 0], 0)
    assert roles(came, [2, 1]) == [[RESTS, OFF, LEARNS], [RESTS, LEARNS, OFF]]
    came = joined(came, [2, 1], 2)
    assert roles(came, [1, 1]) == [[RESTS, LEARNS, RESTS], [RESTS, RESTS, OFF]]
    assert joined(came, [1, 1], 4).tolist() == [[0, 4, 2], [0, 2, NEVER]]


# --- steps in NumPy -------------------------------------------------------------------------------


def softmax(z):
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


class Network:
    """The two layers and the last one of a candidate, float64, and Adam's moments of them."""

    def __init__(self, state, number):
        parts = float64(jax.tree.map(lambda leaf: leaf[number], state.candidates.vars.params))
        self.parts = [*parts["modules"], parts["shared"]["head"]]
        self.parts = [part["layer"] for part in self.parts]
        self.path = np.asarray(state.paths[number])
        self.stacks = [part["layer"] for part in float64(state.whole.params)["modules"]]
        self.came, self.steps = np.asarray(state.came), 0
        self.moments = [dict.fromkeys(part, (0.0, 0.0)) for part in self.parts]

    def layers(self, rests, own):
        """Of each layer the sum of what is there; ``own`` adds the modules that learn."""
        for stack, part, at, mask in zip(self.stacks, self.parts, self.path, rests, strict=False):
            yield {
                k: stack[k][mask].sum(0) + (part[k] if own and not mask[at] else 0) for k in stack
            }

    def forward(self, layers, head, x):
        hidden = [x]
        for layer in layers:
            hidden.append(np.maximum(hidden[-1] @ layer["kernel"] + layer["bias"], 0))
        return hidden[-1] @ head["kernel"] + head["bias"], hidden

    def descend(self, slope, hidden, rate):
        """One step of Adam on what learns, by the derivative of the loss by the logits."""
        self.steps += 1
        layers = [*self.layers(self.came < NEVER, own=True)]
        gradients = [{"kernel": hidden[-1].T @ slope, "bias": slope.sum(0)}]
        slope = slope @ self.parts[-1]["kernel"].T
        for layer, below, above in zip(layers[::-1], hidden[-2::-1], hidden[:0:-1], strict=True):
            slope = slope * (above > 0)
            gradients.insert(0, {"kernel": below.T @ slope, "bias": slope.sum(0)})
            slope = slope @ layer["kernel"].T
        for number, (part, moment) in enumerate(zip(self.parts, self.moments, strict=True)):
            if number < 2 and self.came[number, self.path[number]] < NEVER:
                continue
            for k, g in gradients[number].items():
                first, second = moment[k]
                moment[k] = first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
                first, second = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
                part[k] = part[k] - rate * first / (np.sqrt(second) + 1e-8)


@cache
def augment64():
    """Pixels in double precision, shifted in training."""

    def plain(x):
        return x.reshape(x.shape[0], -1).astype(jnp.float64) / 255

    return shifted_augment()._replace(train=lambda key, x: plain(x) + SHIFT, test=plain)


@pytest.mark.more
@pytest.mark.parametrize(
    ("distillation", "teacher", "weight"),
    [
        ("as_in_code", "old_union", 1),
        ("as_in_code", "as_in_code", 2),
        ("old_classes", "old_union", 1),
        ("none", "old_union", 2),
    ],
)
def test_steps_by_hand(distillation, teacher, weight):
    """Of the third task, in double precision: the batch is the task, so all exemplars stand beside
    it, once; or twice as heavy, where the batch has each example twice."""
    with jax.enable_x64(True):
        kind = {"distillation": distillation, "teacher": teacher, "path_tasks": 1}
        learner = drive(augment=augment64(), dtype="float64", **kind)
        learn(learn(learner, 0, FIRST), 1, SECOND)
        names = THIRD[: 4 // weight]
        learner.begin(task_of(2), padded(names))
        state = learner.state
        held = int(state.memory.seen)
        assert held == 12
        stored, labels = (np.asarray(state.memory.slots[k])[:held] for k in ("x", "y"))
        batch = np.tile(names, weight)
        raw = np.concatenate([np.asarray(pictures(batch)), stored])
        x, y = raw.reshape(len(raw), -1) / 255 + SHIFT, np.concatenate([label_of(batch), labels])
        weights = np.array([1.0] * 4 + [weight] * held)
        weights /= weights.sum()
        networks, before = [Network(state, n) for n in range(N)], float64(state.whole)
        olds = []
        for one in networks:
            rests = one.came < NEVER
            if teacher == "as_in_code":
                rests = rests | (np.arange(M) == one.path[:, None])
            head = {k: v.copy() for k, v in one.parts[-1].items()}
            olds.append(one.forward(one.layers(rests, own=False), head, x)[0])
        rested = np.concatenate(
            [[one.came[n, at] < NEVER for n, at in enumerate(one.path)] for one in networks]
        )
        assert 0 < rested.sum() < rested.size, "some modules were used before, some were not"
        for epoch in range(4):
            loss = learner.step(batch, epoch=epoch)["loss"]
            values = []
            for one, old in zip(networks, olds, strict=True):
                layers = one.layers(one.came < NEVER, own=True)
                z, hidden = one.forward(layers, one.parts[-1], x)
                p = softmax(z)  # all six classes are seen
                value = -(weights * np.log(p[np.arange(len(y)), y])).sum()
                slope = weights[:, None] * (p - np.eye(CLASSES)[y])
                if distillation != "none":
                    columns = slice(4) if distillation == "old_classes" else slice(None)
                    t = np.where(np.arange(CLASSES) < 4, old, np.eye(CLASSES)[y])[:, columns]
                    q, p = softmax(t / 2), softmax(z[:, columns] / 2)
                    terms = q * np.log(q / p)
                    kept = q if distillation == "old_classes" else q * (terms >= 0)
                    terms = terms if distillation == "old_classes" else np.maximum(terms, 0)
                    value += 2.5 * (weights * terms.sum(1)).sum()
                    inner = (p * kept.sum(1, keepdims=True) - kept) / 2
                    slope[:, columns] += 2.5 * weights[:, None] * inner
                values.append(value)
                one.descend(slope, hidden, 2**-7 if epoch < 2 else 2**-8)
            np.testing.assert_allclose(loss, np.mean(values), rtol=1e-6)
        for number, one in enumerate(networks):
            found = Network(learner.state, number).parts
            chex.assert_trees_all_close(found, one.parts, rtol=1e-9, atol=1e-12)
        chex.assert_trees_all_equal(float64(learner.state.whole), before)


# --- paths ----------------------------------------------------------------------------------------


def test_a_path_serves_several_tasks_and_what_rests_stays_bit_for_bit():
    """Three tasks of two a path; the modules of the first are those of the end of the second."""
    learner = drive()
    learn(learner, 0, FIRST)
    assert not np.asarray(learner.state.paths).any()
    learner.begin(task_of(1), padded(SECOND))
    assert not np.asarray(learner.state.paths).any()
    assert (learner.state.came == NEVER).all(), "the first path goes on learning"
    before = float64(learner.state.candidates.vars.params)
    learner.step(SECOND[:4])
    after = float64(learner.state.candidates.vars.params)
    for old, new in zip(before["modules"], after["modules"], strict=True):
        assert (old["layer"]["kernel"] != new["layer"]["kernel"]).any()
    learner.end(task_of(1), padded(SECOND))
    learner.begin(task_of(2), padded(THIRD))
    state = learner.state
    assert state.came.tolist() == [[0, NEVER, NEVER]] * 2
    assert int(state.drawn) == 2
    paths = np.asarray(state.paths)
    assert len({tuple(path) for path in paths.tolist()}) > 1
    for _ in range(30):
        learner.step(THIRD)
    learner.end(task_of(2), padded(THIRD))
    chosen = np.asarray(learner.state.paths)
    assert (chosen == chosen[0]).all()
    assert chosen[0].tolist() in paths.tolist()
    learner.begin(task_of(2), padded(THIRD))  # any task takes what was chosen into the network
    for number in range(2):
        old, new = (
            s.whole.params["modules"][number]["layer"]["kernel"] for s in (state, learner.state)
        )
        moved = (np.asarray(old) != np.asarray(new)).any((1, 2))
        learned = (np.arange(M) == chosen[0, number]) & (chosen[0, number] != 0)
        assert moved.tolist() == learned.tolist()


def test_the_bits_are_those_of_the_union():
    learner = drive()
    for number, names in enumerate((FIRST, SECOND, THIRD)):
        learn(learner, number, names, steps=1)
    state = learner.state
    there = np.asarray(with_chosen(state))
    sizes, head = [13 * 5, 6 * 4], 5 * CLASSES
    expected = [
        32 * (head + sum((there[n] <= t).sum() * sizes[n] for n in range(2))) for t in range(3)
    ]
    bits = learner.method.algorithm.capacity(state)["bits"]
    assert bits.tolist() == expected
    assert expected[0] == 32 * (head + sum(sizes)) < expected[-1]


# --- the choice -----------------------------------------------------------------------------------


def test_what_is_held_out_follows_from_the_pixels_alone():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (4000, 6, 6, 1), np.uint8)
    rows = rng.standard_normal((4000, 9), np.float32)
    for many in (x, rows):
        mine = np.asarray(jax.jit(held_out)(many, 0.25))
        assert abs(mine.mean() - 0.25) < 0.03
        order = rng.permutation(4000)
        np.testing.assert_array_equal(jax.jit(held_out)(many[order], 0.25), mine[order])
        assert not (np.asarray(jax.jit(held_out)(many, 0.1)) & ~mine).any()
        assert not np.asarray(jax.jit(held_out)(many, 0.0)).any()


def test_an_example_that_is_held_out_is_not_learned_from():
    """As if it were padding, and the size of the task is that of the others."""
    learner, alone = drive(held_out_rate=0.4), drive(held_out_rate=0.0)
    out = np.asarray(jax.jit(held_out)(pictures(FIRST), 0.4))
    assert 2 < out.sum() < 11
    learner.begin(task_of(0), padded(FIRST))
    alone.begin(task_of(0), padded(FIRST[~out]))
    assert int(learner.state.task_size) == (~out).sum()
    names = np.concatenate([FIRST[~out][:2], FIRST[out][:2]])
    learner.step(names)
    alone.step(names, 2)
    chex.assert_trees_all_equal(learner.state.candidates, alone.state.candidates)


def test_oracle_of_the_class_accuracy():
    """Two of three of class 0, one of one of class 2; class 1 has none that counts."""
    answers, y = np.array([0, 0, 1, 2, 1]), np.array([0, 0, 0, 2, 1])
    valid = np.array([True] * 4 + [False])
    found = jax.jit(class_accuracy)(np.eye(3)[answers], y, valid)
    np.testing.assert_allclose(found, (2 / 3 + 1) / 2, rtol=1e-6)


@pytest.mark.parametrize("choose_on", ["held_out", pytest.param("test", marks=pytest.mark.more)])
def test_the_best_candidate_is_chosen(choose_on):
    """On held-out examples and exemplars, or on whatever is handed over; classes count equally."""
    learner = drive(held_out_rate=0.4, choose_on=choose_on)
    learn(learner, 0, FIRST)
    learner.begin(task_of(1), padded(SECOND))
    rng = np.random.default_rng(27)  # candidates that answer differently
    some = jax.tree.map(
        lambda leaf: jnp.asarray(3 * rng.standard_normal(leaf.shape), leaf.dtype),
        learner.state.candidates,
    )
    state, names = learner.state.replace(candidates=some), SECOND
    if choose_on == "held_out":
        names = SECOND[np.asarray(jax.jit(held_out)(pictures(SECOND), 0.4))]
        held = np.asarray(state.memory.slots["x"])[: int(state.memory.seen), 0, 0, 0]
        assert set(label_of(held)) == {0, 1}
        names = np.concatenate([names, held])
    scores = []
    for number in range(N):
        first = jax.tree.map(
            lambda leaf, n=number: leaf[np.array([n] * N)], (state.candidates, state.paths)
        )
        learner.state = state.replace(candidates=first[0], paths=first[1])
        right = learner.predict(pictures(names), task_of(1)).argmax(1) == label_of(names)
        scores.append(np.mean([right[label_of(names) == c].mean() for c in set(label_of(names))]))
    assert len(set(scores)) == N
    assert np.argmax(scores) > 0
    learner.state = state
    learner.end(task_of(1), padded(SECOND))
    best = jax.tree.map(lambda leaf: leaf[np.argmax(scores)], state.candidates)
    for number in range(N):
        mine = jax.tree.map(lambda leaf, n=number: leaf[n], learner.state.candidates)
        chex.assert_trees_all_equal(mine, best)


def test_a_choice_on_test_data_is_labelled():
    problem = small_problem()
    leaks = rpsnet(problem, **SMALL | {"choose_on": "test"})
    assert leaks.needs.end_data == "test"
    assert "test" in leaks.name
    assert "says too much" in leaks.advice(10, 1)
    honest = rpsnet(problem, **SMALL)
    assert (honest.name, honest.needs.end_data, honest.advice(10, 1)) == ("rpsnet", True, "")
    single = rpsnet(problem, **SMALL | {"choose_on": "test", "num_candidates": 1})
    assert (single.name, single.needs.end_data) == ("rpsnet", False)


# --- exemplars, and what cannot be ----------------------------------------------------------------


def test_exemplars_are_equally_many_of_each_class_drawn_from_the_task():
    learner, names = drive(), {}
    for number, mine in enumerate((FIRST, SECOND, THIRD)):
        names[number] = set(mine.tolist())
        learn(learner, number, mine, steps=1)
        store = learner.state.next_memory
        held = np.asarray(store.slots["x"])[: int(store.seen), 0, 0, 0]
        counts = np.bincount(label_of(held), minlength=CLASSES)
        # THIRD has two examples a class, and so has every class then.
        assert counts.tolist() == [[6, 3, 2][number]] * 2 * (number + 1) + [0] * (4 - 2 * number)
        assert set(held.tolist()) <= set.union(*names.values())
        assert len(set(held.tolist())) == len(held)
        before = learner.held()[: int(learner.state.memory.seen)]
        assert set(held.tolist()) - names[number] <= set(before.tolist())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_modules": 0}, "num_modules"),
        ({"num_candidates": 0}, "num_candidates"),
        ({"path_tasks": 0}, "path_tasks"),
        ({"memory_size": 5}, "memory_size=5 gives none of the 6 classes"),
        ({"replay_size": 0}, "replay_size=0"),
        ({"replay_size": 13}, "replay_size=13"),
        ({"halvings": (3, 2)}, "halvings is"),
        ({"num_modules": 1, "path_tasks": 2}, "rests after the first 2 of 3 tasks"),
        ({"choose_on": "training"}, "choose_on"),
        ({"held_out_rate": 1.5}, "held_out_rate"),
        ({"distillation_weight": -1.0}, "distillation_weight"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_what_cannot_be_is_said(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        rpsnet(small_problem(), **{**SMALL, **arguments})


@pytest.mark.parametrize(
    ("modules", "layers", "candidates", "draws", "found"),
    # Of one layer of two modules the first draw misses the other with 1/2, the next with 3/4.
    [(2, 1, 1, 2, 1.25), (2, 1, 2, 3, 1.6875), (2, 2, 1, 3, 1.578125), (3, 1, 1, 2, 8 / 9)],
)
def test_too_few_modules_are_warned_of(modules, layers, candidates, draws, found):
    rng, drawn = np.random.default_rng(0), 0
    for _ in range(4000):
        on = np.zeros((layers, modules), bool)
        on[:, 0] = True
        for _ in range(draws):
            paths = rng.integers(modules, size=(candidates, layers))
            drawn += on[np.arange(layers), paths].all()
            on[np.arange(layers), paths[0]] = True
    assert abs(drawn / 4000 - found) < 0.05
    said = few_modules(modules, layers, candidates, draws)
    assert (f"{found:.1f} of {draws} new paths" in said) if found >= 1 else not said


def test_too_few_modules_are_said_of_as_many_tasks_as_there_are():
    problem = small_problem()
    few = {**SMALL, "num_modules": 2, "num_candidates": 1, "path_tasks": 1}
    longer = problem._replace(num_tasks=5)
    assert rpsnet(problem, **few).advice(10, 1) == ""
    assert "num_modules is 2: 2.5 of 4 new paths" in rpsnet(longer, **few).advice(10, 1)
    assert rpsnet(longer, **few | {"path_tasks": 2}).advice(10, 1) == ""
    assert rpsnet(longer, **few | {"num_modules": 1, "path_tasks": 5}).advice(10, 1) == ""
    assert few_modules(10**6, 2, 8, 99) == ""
    leaks = rpsnet(longer, **few | {"num_candidates": 2, "choose_on": "test"})
    assert leaks.advice(10, 1).startswith("choose_on is 'test'")
    assert "; num_modules is 2: " in leaks.advice(10, 1)


def test_its_networks_are_its_own():
    for net in ("vit", "resnet32", "lenet"):
        with pytest.raises(InputError, match=f"net is '{net}'"):
            rpsnet(small_problem(net), **SMALL)
    one = rpsnet(small_problem(), **SMALL | {"num_modules": 1, "path_tasks": 3})
    assert one.fixed["num_modules"] == 1
