"""FRCL: a task's function is kept as a Gaussian at a few inputs, and the network is held to it.

Features ``phi(x)`` of the network and a Gaussian last layer ``w ~ N(0, I)`` for each task make the
task a Gaussian process. Task t learns the network and ``q(w) = N(mu, L L^T)`` by the evidence lower
bound; of an ended task j its inducing points Z_j and ``q(u_j)``, the function's values there, are
kept: no labels and no layer. The loss is

``-mean_i E log p(y_i | f(x_i)) + (KL(q(w) || N(0, I)) + lambda sum_j KL(q(u_j) || N(0, K_j))) / N``

with ``K_j = phi(Z_j) phi(Z_j)^T`` under the network as it is now. An ended task answers from its
points through this kernel, so its answer is a function together with how uncertain that is.

Source: Titsias, Schwarz, Matthews, Pascanu, Teh 2020 (ICLR; arXiv 1901.11356), equation 8. The
authors have published no code; settings are those of AndreevP/FRCL, an independent one.
Departs: Adam starts anew with each task; L is lower triangular, for another L says nothing more;
two classes have one output and no samples; the samples of an answer are always the same. Jitters,
and more points than features: frcl_posterior.py.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.checks import check_range
from cls_jax.core.herding import in_chunks
from cls_jax.core.losses import mask_logits, mean_over
from cls_jax.core.types import Array, Batch, Metrics, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.columns import place_of
from cls_jax.methods.heads import check_head, index_tree, told_or_last_task
from cls_jax.methods.problem import Problem
from cls_jax.methods.regularization.frcl_likelihood import (
    expected_log_likelihood,
    log_probabilities,
)
from cls_jax.methods.regularization.frcl_points import first_points, improved_points
from cls_jax.methods.regularization.frcl_posterior import (
    Values,
    first_weights,
    function_kl,
    marginals,
    no_values,
    predictive,
    values_at,
    weight_kl,
)
from cls_jax.methods.steps import forward_each, gradient_step, told_rows
from cls_jax.nets.base import Net


class FrclState(struct.PyTreeNode):
    """T tasks, M points each, D outputs.

    Attributes:
      model: parameters {"net": the network, "weights": q(w) of the task that is learned}.
      points: raw inputs [T, M, ...] of the ended tasks.
      values: Values of the functions there, leaves [T, ...]; no point is valid before a task's end.
      classes: bool[T, num_classes] of each task; all of them before it begins.
      current: int32[] number of the task that is learned, or was last.
      task_size: int32[] N, its examples.
    """

    model: Trainable
    points: Array
    values: Values
    classes: Array
    current: Array
    task_size: Array


class FunctionValues(NamedTuple):
    """What a task's function is at examples: independent Gaussians.

    Attributes:
      mean, variance: float32[b, D].
      prior: float32[b] the variance before anything was learned; the mean was 0.
    """

    mean: Array
    variance: Array
    prior: Array


@method
def frcl(
    problem: Problem,
    *,
    points_per_task: int = 40,
    criterion: Literal["random", "balanced", "trace"] = "trace",
    classes_per_task: int | None = None,
    task_size: int | None = None,
    num_samples: int = 20,
    learning_rate: float = 1e-4,
    kl_weight: float = 1.0,
    initial_mean_std: float = 1.0,
) -> Algorithm:
    """Functional regularisation for continual learning, the task told in training and at test.

    It answers with log-probabilities, the function's uncertainty taken into account; the view
    "mean" leaves the uncertainty out. As a task ends, its examples go forward once, in chunks.

    Args:
      points_per_task: M, inputs kept of each task; the larger of the paper's two for Split MNIST.
      criterion: how they are chosen of the task's inputs: at random, equally many of each class, or
        by a search that lowers what they leave open of the prior's variance (trace).
      classes_per_task: of the largest task; as many as the stream has if not given. With 2 a task
        has one output, else one for each class.
      task_size: N, examples of a task; counted as each begins if not given. An open stream may not
        know them yet.
      num_samples: of a function value, where there is more than one output; AndreevP/FRCL.
      learning_rate: eta, of Adam, >= 0; AndreevP/FRCL for Split and Permuted MNIST.
      kl_weight: lambda, of what is kept of ended tasks, >= 0; 1 is the bound's own.
      initial_mean_std: of the normal numbers that mu starts at in each task; AndreevP/FRCL, which
        for 10 points of Permuted MNIST has 0.04 times a factor a task. At 0 the features move less,
        and a few points tell less of the function.

    Raises:
      InputError: for a size below 1, classes that have no output, or a network without features.
    """
    num_classes, num_tasks, augment = problem.num_classes, problem.num_tasks, problem.augment
    num_labels = num_classes if classes_per_task is None else classes_per_task
    check_range("points_per_task", points_per_task, 1)
    check_range("num_samples", num_samples, 1)
    check_range("task_size", 1 if task_size is None else task_size, 1)
    check_range("classes_per_task", num_labels, -(-num_classes // num_tasks), num_classes)
    num_outputs = 1 if num_labels == 2 else num_labels
    net, optimizer = feature_net(problem), optax.adam(learning_rate)

    def init(key: Array, example: Batch) -> FrclState:
        vars = net.init(key, augment.test(example.x))
        features = jax.eval_shape(
            lambda x: net.apply(vars, augment.test(x), train=False), example.x
        )
        num_features, dtype = features[0].shape[1], features[0].dtype
        mean = jnp.zeros((num_outputs, num_features), dtype)
        params = {"net": vars.params, "weights": first_weights(mean)}
        num_points = num_tasks, points_per_task
        return FrclState(
            model=Trainable(Variables(params, vars.stats), optimizer.init(params)),
            points=jnp.zeros((*num_points, *example.x.shape[1:]), example.x.dtype),
            values=no_values(*num_points, num_outputs, num_features, dtype),
            classes=jnp.ones((num_tasks, num_classes), bool),
            current=jnp.int32(0),
            task_size=jnp.int32(1),
        )

    def learnable(data: Batch, classes: Array) -> Array:
        """bool[b]: the rows of the task's classes that have an output."""
        return told_rows(data, classes) & (place_of(classes)[data.y] < num_labels)

    def used(classes: Array) -> Array:
        """bool[..., D]: outputs that a task with these classes has, bool[..., num_classes]."""
        number = jnp.where(num_outputs == 1, 1, classes.sum(axis=-1, keepdims=True))
        return jnp.arange(num_outputs) < number

    def begin_task(key: Array, state: FrclState, task: Task, data: Batch | None) -> FrclState:
        vars = state.model.vars
        mean = vars.params["weights"].mean
        mean = initial_mean_std * jax.random.normal(key, mean.shape, mean.dtype)
        params = {**vars.params, "weights": first_weights(mean)}
        if task_size is None:
            assert data is not None  # begin_data
            size = jnp.maximum(learnable(data, task.classes).sum(dtype=jnp.int32), 1)
        else:
            size = jnp.int32(task_size)
        return state.replace(
            model=Trainable(vars.replace(params=params), optimizer.init(params)),
            classes=state.classes.at[task.index].set(task.classes),
            current=jnp.copy(task.index),
            task_size=size,
        )

    def step(key: Array, state: FrclState, batch: Batch) -> tuple[FrclState, Metrics]:
        key_augment, key_sample = jax.random.split(key)
        classes, values = state.classes[state.current], state.values
        place, counted = place_of(classes)[batch.y], learnable(batch, classes)
        x = augment.train(key_augment, batch.x)
        held = augment.test(state.points.reshape(-1, *state.points.shape[2:]))
        kept = values.valid.any(axis=1)[:, None] & used(state.classes)

        def loss(vars: Variables):
            weights, vars = vars.params["weights"], vars.replace(params=vars.params["net"])
            rows = [counted, values.valid.ravel()]
            (features, of_held), stats = forward_each(net, vars, [x, held], rows)
            mean, variance = marginals(features, weights)
            fit = expected_log_likelihood(
                key_sample, mean, variance, place, classes.sum(), num_samples
            )
            of_held = of_held.reshape(*values.valid.shape, -1)
            earlier = jnp.where(kept, jax.vmap(function_kl)(of_held, values), 0).sum()
            new = jnp.where(used(classes), weight_kl(weights), 0).sum()
            return (new + kl_weight * earlier) / state.task_size - mean_over(fit, counted), stats

        model, value = gradient_step(state.model, optimizer, loss)
        return state.replace(model=model), {"loss": value.astype(jnp.float32)}

    def end_task(key: Array, state: FrclState, task: Task, data: Batch | None) -> FrclState:
        assert data is not None  # end_data
        key_draw, key_search = jax.random.split(key)
        there = learnable(data, task.classes)
        balanced = criterion == "balanced"
        rows, valid = first_points(key_draw, data.y, there, points_per_task, balanced=balanced)
        if criterion == "trace":
            features = in_chunks(partial(features_of, net, augment, state), data.x)
            rows = improved_points(key_search, features, there, rows)
        points = data.x[rows]
        features = features_of(net, augment, state, points)
        values = values_at(features, valid, state.model.vars.params["weights"])
        every, new = (state.points, state.values), (points, values)
        points, values = jax.tree.map(lambda a, b: a.at[task.index].set(b), every, new)
        return state.replace(points=points, values=values)

    def answer(state: FrclState, x: Array, task: Task, *, certain: bool) -> Array:
        classes = state.classes[told_or_last_task(task, state.current)]
        found = function_values(problem, state, x, task)
        variance = jnp.zeros_like(found.variance) if certain else found.variance
        logs = log_probabilities(found.mean, variance, classes.sum())
        place = place_of(classes)
        of_class = jnp.take(logs, place, axis=1, mode="clip").astype(jnp.float32)
        return mask_logits(of_class, classes & (place < num_labels))

    def predict(state: FrclState, x: Array, task: Task) -> Array:
        return answer(state, x, task, certain=False)

    def predict_mean(state: FrclState, x: Array, task: Task) -> Array:
        return answer(state, x, task, certain=True)

    def capacity(state: FrclState) -> dict[str, Array]:
        vars = state.model.vars
        of_net, of_tasks = (
            8 * sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
            for tree in ((vars.params["net"], vars.stats), (state.points, state.values))
        )
        return {"bits": of_net + jnp.arange(1, num_tasks + 1) * jnp.float32(of_tasks / num_tasks)}

    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        views={"mean": predict_mean},
        needs=Needs(
            told_task=True,
            told_task_at_test=True,
            boundaries=True,
            begin_data=task_size is None,
            end_data=True,
        ),
        capacity=capacity,
    )


def feature_net(problem: Problem) -> Net:
    """The problem's network, up to its features; raises InputError where it names no last layer."""
    net = problem.net()
    check_head("frcl", net)
    assert net.features is not None  # where there is a head
    return net._replace(apply=net.features)


def features_of(net: Net, augment: Augment, state: FrclState, x: Array) -> Array:
    """float32[b, K] of raw examples.

    Args:
      net: of ``feature_net``.
      augment: of the problem.
      state: whose network.
      x: [b, ...].
    """
    vars = state.model.vars
    vars = vars.replace(params=vars.params["net"])
    return net.apply(vars, augment.test(x), train=False)[0]


def function_values(problem: Problem, state: FrclState, x: Array, task: Task) -> FunctionValues:
    """A task's function at examples: an ended task's from its points, else from q(w).

    Args:
      problem: that the method was made for.
      state: of the method.
      x: raw examples [b, ...].
      task: which; the one learned last if it is not told.
    """
    index = told_or_last_task(task, state.current)
    forward = partial(features_of, feature_net(problem), problem.augment, state)
    features, values = forward(x), index_tree(state.values, index)
    mean, variance = jax.lax.cond(
        values.valid.any(),
        lambda: predictive(features, forward(state.points[index]), values),
        lambda: marginals(features, state.model.vars.params["weights"]),
    )
    return FunctionValues(mean, variance, jnp.square(features).sum(axis=1))
