"""FRCL: whole tasks again in NumPy, what a task's end keeps, and what answers."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.types import Task
from cls_jax.methods.base import hidden_task
from cls_jax.methods.regularization.frcl import frcl, function_values
from cls_jax.nets.base import Net
from cls_jax.nets.mlp import mlp
from tests.support.drive import CLASSES, Drive, label_of, made_batch, padded, pictures, task_of
from tests.support.nets import names_in, perceptron
from tests.support.problems import flat_augment, own_problem

RATE, KL_WEIGHT = 0.01, 2.0
AS_IT_IS = Augment(lambda key, x: x, lambda x: x)

# --- two tasks, again in NumPy --------------------------------------------------------------------
# Gradients are imaginary parts of the loss at theta + i h: exact, and by nobody's autodiff.


def dense_kl(mean, cov, prior):
    inverse = np.linalg.inv(prior)
    logs = np.log(np.linalg.det(prior)) - np.log(np.linalg.det(cov))
    return 0.5 * (np.trace(inverse @ cov) + mean @ inverse @ mean - len(mean) + logs)


def features(theta, x):
    hidden = x @ theta["w"] + theta["b"]
    return np.where(hidden.real > 0, hidden, 0)


def lower(raw):
    on = np.log1p(np.exp(np.diag(raw)))
    return np.tril(raw, -1) + np.diag(on)


def loss_of(theta, x, place, noise, num_used, size, kept):
    """The card's loss; ``kept`` are (Z, m [D, M], S [D, M, M]) of earlier tasks."""
    phi, num_rows = features(theta, x), len(x)
    factors = [lower(raw) for raw in theta["scale"]]
    mean = phi @ theta["mean"].T
    std = np.sqrt(np.stack([((phi @ factor) ** 2).sum(1) for factor in factors], 1))
    if mean.shape[1] == 1:
        nodes, shares = np.polynomial.hermite.hermgauss(20)
        at = (2 * place - 1)[:, None] * (mean + std * np.sqrt(2) * nodes)
        fit = -(np.log1p(np.exp(-at)) * shares / np.sqrt(np.pi)).sum()
    else:
        f = (mean + std * noise)[:, :, :num_used]
        logs = f - np.log(np.exp(f).sum(2, keepdims=True))
        fit = logs[:, np.arange(num_rows), place].mean(0).sum()
    eye = np.eye(phi.shape[1])
    total = sum(
        dense_kl(m, factor @ factor.T, eye)
        for m, factor in zip(theta["mean"][:num_used], factors[:num_used], strict=True)
    )
    for points, means, covs in kept:
        of_points = features(theta, points)
        kernel = of_points @ of_points.T
        extra = 1e-6 * np.diag(kernel).real.mean() * np.eye(len(points))
        earlier = zip(means[:num_used], covs[:num_used], strict=True)
        total = total + KL_WEIGHT * sum(dense_kl(m, s + extra, kernel + extra) for m, s in earlier)
    return -fit / num_rows + total / size


class Twin:
    """theta by name, and Adam."""

    def __init__(self, theta):
        self.theta = theta
        self.first, self.second = ({k: 0 * v for k, v in theta.items()} for _ in range(2))
        self.count = 0

    def step(self, *given):
        self.count += 1
        value, gradient = loss_of(self.theta, *given), {}
        for name, leaf in self.theta.items():
            slope = np.zeros(leaf.size)
            for i in range(leaf.size):
                moved = leaf.astype(complex).ravel()
                moved[i] += 1e-30j
                moved = {**self.theta, name: moved.reshape(leaf.shape)}
                slope[i] = loss_of(moved, *given).imag / 1e-30
            gradient[name] = slope.reshape(leaf.shape)
        for name, g in gradient.items():
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = 0.999 * self.second[name] + 0.001 * g * g
            mean = self.first[name] / (1 - 0.9**self.count)
            std = np.sqrt(self.second[name] / (1 - 0.999**self.count))
            self.theta[name] = self.theta[name] - RATE * mean / (std + 1e-8)
        return value


def theta_of(state):
    params = jax.tree.map(np.asarray, state.model.vars.params)
    weights, layer = params["weights"], params["net"]["fc1"]
    return {"w": layer["kernel"], "b": layer["bias"], "mean": weights.mean, "scale": weights.scale}


CASES = [(2, 2), (6, 4), *(pytest.param(*one, marks=pytest.mark.more) for one in ((6, 2), (2, 4)))]


@pytest.mark.parametrize(("num_points", "classes_per_task"), CASES)
def test_two_tasks_are_those_of_the_paper(num_points, classes_per_task):
    """Fewer points than features and more; one output, and four of which a task uses two."""
    with jax.enable_x64(True):
        problem = own_problem(mlp(4, (4,), "float64"), augment=AS_IT_IS, num_classes=4, num_tasks=2)
        method = frcl(
            problem,
            points_per_task=num_points,
            criterion="random",
            classes_per_task=classes_per_task,
            num_samples=3,
        ).at({"learning_rate": RATE, "kl_weight": KL_WEIGHT, "initial_mean_std": 1.0})
        rng = np.random.default_rng(0)
        state = method.init(jax.random.key(0), made_batch(np.zeros((3, 5)), [0, 1, 0]))
        step, kept = jax.jit(method.step), []
        for number in range(2):
            x, y = rng.normal(size=(9, 5)) + number, 2 * number + rng.integers(0, 2, 9)
            flags = jnp.arange(4) // 2 == number
            task, data = Task(jnp.int32(number), flags, flags), made_batch(x, y, task=number)
            state = method.begin_task(jax.random.key(number), state, task, data)
            twin = Twin(theta_of(state))
            for s in range(3):
                key, rows = jax.random.key(10 + s), slice(3 * s, 3 * s + 3)
                noise = jax.random.normal(
                    jax.random.split(key)[1], (3, 3, classes_per_task), jnp.float64
                )
                num_used = 1 if classes_per_task == 2 else 2
                given = x[rows], y[rows] - 2 * number, np.asarray(noise), num_used, 9, kept
                state, metrics = step(key, state, made_batch(x[rows], y[rows], task=number))
                np.testing.assert_allclose(metrics["loss"], twin.step(*given), rtol=1e-6)
                chex.assert_trees_all_close(theta_of(state), twin.theta, rtol=1e-5, atol=1e-7)
            state = method.end_task(jax.random.key(number), state, task, data)
            points = np.asarray(state.points[number])
            assert all((x == point).all(1).any() for point in points)
            image = features(twin.theta, points)
            roots = [image @ lower(raw) for raw in twin.theta["scale"]]
            covs = np.stack([root @ root.T for root in roots])
            kept = [*kept, (points, (image @ twin.theta["mean"].T).T, covs)]


# --- a task's end, and answers --------------------------------------------------------------------

FIRST, SECOND = [0, 21, 1, 22, 2, 23, 3], [41, 62, 42, 63, 43, 64]
"""Names of two tasks of two classes."""


def drive(**changes):
    arguments = {"points_per_task": 4, "criterion": "random", "classes_per_task": 2, **changes}
    problem = own_problem(perceptron(), augment=flat_augment(), num_classes=CLASSES)
    return Drive(frcl(problem, **{"learning_rate": RATE, **arguments}))


def learn(learner, number, names, steps=3):
    """A task, up to its end."""
    learner.begin(task_of(number), padded(names))
    for s in range(steps):
        learner.step(names[s : s + 4], task=number)


def probabilities(learner, names, task):
    return np.exp(learner.predict(pictures(names), task))


@pytest.mark.parametrize(
    "changes", [{"criterion": "trace"}, {"classes_per_task": 6, "criterion": "balanced"}]
)
def test_at_its_points_a_task_answers_as_it_did_before_it_ended(changes):
    """Told or not."""
    learner = drive(**changes)
    learn(learner, 0, FIRST)
    before = learner.state
    learner.end(task_of(0), padded(FIRST))
    state = learner.state
    names = np.asarray(state.points[0, :, 0, 0, 0])
    assert len({*names} & {*FIRST}) == 4
    assert not np.asarray(state.values.valid[1:]).any()
    if changes.get("criterion") == "balanced":
        assert np.bincount(label_of(names)).tolist() == [2, 2]
    of = partial(function_values, learner.method.at.problem)
    for task in (task_of(0), hidden_task(CLASSES)):
        was, now = (of(one, pictures(names), task) for one in (before, state))
        scale = float(jnp.abs(was.mean).max())
        np.testing.assert_allclose(now.mean, was.mean, atol=2e-3 * scale)
        np.testing.assert_allclose(now.variance, was.variance, rtol=0.02)


def test_an_answer_is_a_distribution_over_the_classes_of_its_task():
    learner = drive(classes_per_task=6)
    learn(learner, 0, FIRST), learner.end(task_of(0), padded(FIRST))
    learn(learner, 1, SECOND)
    for number in range(2):
        p = probabilities(learner, [0, 30, 50], task_of(number))
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
        assert {*np.flatnonzero(p.any(0))} == {2 * number, 2 * number + 1}
    last, hidden = (probabilities(learner, [7], one) for one in (task_of(1), hidden_task(CLASSES)))
    np.testing.assert_array_equal(last, hidden)
    np.testing.assert_array_equal(probabilities(learner, [7], task_of(2)).argmax() // 2 == 1, True)


def test_uncertainty_levels_an_answer_and_the_view_leaves_it_out():
    learner = drive()
    learn(learner, 0, FIRST)
    before = learner.end(task_of(0), padded(FIRST))
    x, task = pictures(range(12)), task_of(0)
    sure = np.exp(learner.method.views["mean"](learner.state, x, task))[:, :2].max(1)
    unsure = probabilities(learner, range(12), task)
    assert (unsure[:, :2].max(1) < sure).all()
    of = partial(function_values, learner.method.at.problem)
    was, found = (of(one, x, task) for one in (before, learner.state))
    assert float(found.variance.mean()) > float(was.variance.mean())  # the points are but a few
    assert (np.asarray(found.variance)[:, 0] <= np.asarray(found.prior)).all()
    mean = np.asarray(found.mean[:, 0])
    clear = np.abs(mean) > 1e-3
    assert clear.sum() > 8
    np.testing.assert_array_equal((unsure[:, 1] > unsure[:, 0])[clear], mean[clear] > 0)


def test_earlier_tasks_enter_by_their_weight_alone():
    """With weight 0 they are forgotten; at the task's end they begin to count."""
    held, free, fresh = (drive(kl_weight=weight) for weight in (1.0, 0.0, 0.0))
    for learner in (held, free):
        learn(learner, 0, FIRST), learner.end(task_of(0), padded(FIRST))
    learn(fresh, 0, FIRST)
    fresh.clock += 1
    for learner in (held, free, fresh):
        learn(learner, 1, SECOND)
    chex.assert_trees_all_close(free.params, fresh.params, rtol=1e-5)
    moved = np.abs(held.params["net"]["fc1"]["kernel"] - free.params["net"]["fc1"]["kernel"])
    assert moved.max() > 1e-3
    assert held.program("step", "train")._cache_size() == 1


def test_adam_and_the_last_layer_begin_anew_with_a_task():
    learner = drive()
    learn(learner, 0, FIRST), learner.end(task_of(0), padded(FIRST))
    net = learner.params["net"]
    learner.begin(task_of(1), padded(SECOND))
    chex.assert_trees_all_equal(learner.params["net"], net)
    np.testing.assert_allclose(
        jax.nn.softplus(np.diagonal(learner.params["weights"].scale[0])), 1, rtol=1e-6
    )
    assert (learner.params["weights"].mean != 0).all()
    assert int(learner.state.task_size) == len(SECOND)
    told = drive(task_size=99)
    assert (learner.method.needs.begin_data, told.method.needs.begin_data) == (True, False)
    told.begin(task_of(0))
    assert int(told.state.task_size) == 99
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(learner.state.model.opt))


def test_classes_beyond_the_outputs_are_padding():
    """A task of three classes where two were said: the third is in no loss and in no answer."""
    learner, other = drive(), drive()
    task = task_of(0, classes=[0, 1, 2])
    for one, names in ((learner, [0, 21, 41, 1]), (other, [0, 21, 99, 1])):
        one.begin(task, padded(names[:2]))
        valid = np.array([True, True, one is learner, True])
        one.step(names, valid, task=0)
    chex.assert_trees_all_equal(learner.params, other.params)
    assert int(learner.state.task_size) == 2
    p = probabilities(learner, [0, 41], task)
    np.testing.assert_allclose(p[:, :2].sum(1), 1, rtol=1e-5)


def counting_net():
    """A perceptron that counts the names it was shown, forward by forward."""
    inner = perceptron()

    def init(key, x):
        vars = inner.init(key, x)
        return vars.replace(stats={"shown": jnp.zeros((2, 120))})

    def run(vars, x, *, train, valid=None):
        out, _ = inner.features(vars.replace(stats={}), x, train=train)
        if not train:
            return out, vars.stats
        names = jnp.round(x[:, 0] * 255).astype(int)
        histogram = jnp.zeros(120).at[names].add(1.0 * valid)
        return out, {"shown": jnp.roll(vars.stats["shown"], -1, 0).at[-1].set(histogram)}

    return Net(init, run, features=run, head=inner.head)


def test_every_step_shows_the_batch_and_then_the_points_of_ended_tasks():
    problem = own_problem(counting_net(), augment=flat_augment(), num_classes=CLASSES)
    learner = Drive(frcl(problem, points_per_task=4, learning_rate=RATE))
    learn(learner, 0, FIRST)
    shown = learner.state.model.vars.stats["shown"]
    assert [len(names_in(row)) for row in shown] == [4, 0]
    learner.end(task_of(0), padded(FIRST)), learn(learner, 1, SECOND)
    shown = learner.state.model.vars.stats["shown"]
    assert sorted(names_in(shown[0])) == sorted(SECOND[2:6])
    assert sorted(names_in(shown[1])) == sorted(np.asarray(learner.state.points[0, :, 0, 0, 0]))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"points_per_task": 0}, "points_per_task is 0"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"task_size": 0}, "task_size is 0"),
        ({"classes_per_task": 1}, "classes_per_task is 1"),
        ({"classes_per_task": 7}, "classes_per_task is 7"),
        ({"criterion": "entropy"}, "criterion is 'entropy'; use one of random, balanced, trace"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        drive(**changes)


def test_a_network_without_features_is_refused():
    problem = own_problem(
        perceptron()._replace(features=None, head=None), augment=flat_augment(), num_classes=CLASSES
    )
    with pytest.raises(InputError, match="frcl gives each task a last layer of its own"):
        frcl(problem)
