"""Which earlier tasks each estimator of core/similarity.py finds alike, and whether they agree.

Measured on the arm "snapshots", whose copies are the working network as it was at the end of each
task. A new task is looked at through the copy of the task before it, as a method would as the task
begins: by the class prototypes of its examples and of the exemplars of each task before, by the
gradients of both, and by what a step on the new task does to an old one (the affinity of TAG). The
representations are those of the new task's examples under its own copy and each one before.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.app.build import Learner
from cls_jax.core import losses
from cls_jax.core.files import write_json
from cls_jax.core.memory import reservoir
from cls_jax.core.metrics import summarise
from cls_jax.core.paths import writing
from cls_jax.core.similarity import (
    Labelled,
    affinity,
    gradient_cosine,
    representation_similarity,
    task_similarity,
)
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.methods.base import problem_of
from cls_jax.methods.cls.group_ema_rules import PROBE_SIZE
from cls_jax.report.tables import TextTable, percent, rich_table, show
from cls_jax.streams.planted import planted_groups
from cls_jax.streams.stream import look_up
from cls_jax.training.events import Result
from cls_jax.training.group import schedule_key
from cls_jax.training.runtime.distributed import is_primary

ESTIMATORS = "prototypes", "gradients", "affinity of a step", "representations"


def estimates(learner: Learner, result: Result) -> dict[str, np.ndarray]:
    """Estimator -> float64[seeds, T, T]: how alike task t is to each j < t; NaN elsewhere.

    Args:
      learner: of the arm "snapshots", with a copy a task.
      result: of it.
    """
    problem, stream = problem_of(learner.method), learner.stream
    assert problem is not None
    net, augment, num_tasks = problem.net(), problem.augment, stream.num_tasks
    extract = net.features
    assert extract is not None
    rate = learner.method.hyper["learning_rate"]

    def loss(params: PyTree, vars: Variables, rows: Labelled) -> Array:
        logits, _ = net.apply(vars.replace(params=params), rows.features, train=False)
        return losses.cross_entropy(logits, rows.y, valid=rows.valid)

    @jax.jit
    def of_task(state: PyTree, probes: Labelled, number: Array) -> dict[str, Array]:
        """float32[T] each; probes: examples of every task, leaves [T, ...]."""
        copies, slots = state.copies.vars, state.memory.slots
        here, own, new = _row(copies, number - 1), _row(copies, number), _row(probes, number)
        filled = reservoir(len(slots["y"])).filled(state.memory) & (slots["task"] < number)
        old = Labelled(augment.test(slots["x"]), slots["y"], filled)

        def seen(rows: Labelled, vars: Variables = here) -> Labelled:
            return rows._replace(features=extract(vars, rows.features, train=False)[0])

        sizes = num_tasks, problem.num_classes
        alike, _ = task_similarity(jax.random.key(0), seen(new), seen(old), slots["task"], *sizes)
        step = jax.grad(loss)(here.params, here, new)

        def of(task: Array, copy: Variables, probe: Labelled) -> tuple[Array, Array, Array]:
            mine = old._replace(valid=filled & (slots["task"] == task))
            gradient = jax.grad(loss)(here.params, here, mine)
            cosine = gradient_cosine(step, gradient, net.head)
            gain = affinity(lambda p: loss(p, here, probe), here.params, step, rate)
            features = (seen(new, vars).features for vars in (own, copy))
            return cosine, gain, representation_similarity(*features)

        found = jax.vmap(of)(jnp.arange(num_tasks), copies, probes)
        return dict(zip(ESTIMATORS, (alike, *found), strict=True))

    before = np.tri(num_tasks, k=-1, dtype=bool)
    found = []
    for seed, state in zip(result.seeds, result.states, strict=True):
        probes = _probes(learner, seed)
        rows = [of_task(state, probes, number) for number in range(num_tasks)]
        found.append({name: np.stack([row[name] for row in rows]) for name in ESTIMATORS})
    return {
        name: np.where(before, np.stack([one[name] for one in found]), np.nan)
        for name in ESTIMATORS
    }


def _row(tree: PyTree, number: Array | int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[number], tree)


def _probes(learner: Learner, seed: int) -> Labelled:
    """PROBE_SIZE training examples of each task, or all, leaves [T, PROBE_SIZE, ...]."""
    stream, problem = learner.stream, problem_of(learner.method)
    assert problem is not None
    schedule, data = stream.schedule(schedule_key(seed), epochs=1), stream.source.train
    contexts = look_up(schedule.contexts, schedule.test_context)

    def of(task: int) -> Labelled:
        index = schedule.rows(task).index.ravel()[:PROBE_SIZE]
        index = np.pad(index, (0, PROBE_SIZE - len(index)), constant_values=-1)
        x = jnp.asarray(data.x[index])
        if stream.transform is not None:
            x = stream.transform(x, _row(contexts, task))
        return Labelled(
            problem.augment.test(x), jnp.asarray(data.y[index]), jnp.asarray(index >= 0)
        )

    every = [of(task) for task in range(stream.num_tasks)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *every)


def nearest_hits(similar: np.ndarray, truth: Sequence[int]) -> np.ndarray:
    """float64[seeds]: the share of tasks whose likeliest task before is of their own group.

    Of the tasks that have one of their group before them; NaN if none has.

    Args:
      similar: [seeds, T, T] to the tasks before; NaN elsewhere.
      truth: the group of each task.
    """
    group = np.asarray(truth)
    some = [t for t in range(len(group)) if group[t] in group[:t]]
    return _share(group[_nearest(similar, some)] == group[some])


def ranked(similar: np.ndarray, truth: Sequence[int]) -> np.ndarray:
    """float64[seeds]: how often a pair of one group is found more alike than one of two (AUC).

    NaN if all pairs are of one sort.

    Args:
      similar, truth: as for ``nearest_hits``.
    """
    group, before = np.asarray(truth), np.tri(len(truth), k=-1, dtype=bool)
    same = group[:, None] == group
    one, two = similar[:, before & same][:, :, None], similar[:, before & ~same][:, None]
    return _share(((one > two) + 0.5 * (one == two)).reshape(len(similar), -1))


def _nearest(similar: np.ndarray, tasks: Sequence[int]) -> np.ndarray:
    """int[seeds, n]: the likeliest task before each."""
    found = [similar[:, t, :t].argmax(axis=1) for t in tasks]
    return np.array(found, int).reshape(len(tasks), len(similar)).T


def _share(hits: np.ndarray) -> np.ndarray:
    """Of [seeds, n] the mean of each row; NaN of none."""
    return hits.mean(axis=1) if hits.size else np.full(len(hits), np.nan)


def report_estimators(pairs: Sequence[tuple[Learner, Result]], workdir: str | None) -> None:
    """Prints how well each estimator finds the groups, and writes estimators.json.

    Nothing without the arm "snapshots".

    Args:
      pairs: the arms.
      workdir: where the file is written; None: nowhere.
    """
    found = {
        name: similar
        for learner, result in pairs
        if learner.method.name == "snapshots"
        for name, similar in estimates(learner, result).items()
    }
    if not found or not is_primary():
        return
    stream = pairs[0][0].stream
    planted, later = stream.describe.get("groups"), range(2, stream.num_tasks)
    rows = []
    for name, similar in found.items():
        scores: list[np.ndarray] = []
        if planted is not None:
            truth = planted_groups(stream.num_tasks, int(str(planted)))
            scores = [nearest_hits(similar, truth), ranked(similar, truth)]
        agree = _nearest(similar, later) == _nearest(found[ESTIMATORS[0]], later)
        scores.append(_share(agree))
        rows.append((name, *(percent(summarise(one)) for one in scores)))
    titles = ("nearest of its group", "AUC") if planted is not None else ()
    header = ("estimator", *titles, f"nearest as by {ESTIMATORS[0]}")
    note = "percent, mean ± sample std"
    show(rich_table(TextTable("Which tasks are alike?", header, tuple(rows), note)))
    if workdir is not None:
        with writing(workdir):
            write_json(Path(workdir) / "estimators.json", found)
