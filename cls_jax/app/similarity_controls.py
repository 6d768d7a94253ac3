"""group_ema beside CLS-ER and its controls on a stream whose groups are known: what helped?

Several copies help without similarity too, so beside groups by similarity stand as many at random,
snapshots (a copy a task), ER and DER++ with a memory larger by what the copies cost, and the groups
told. Effects are paired differences to CLS-ER, of equal seeds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cls_jax.app.build import Learner, make_learner
from cls_jax.app.variants import Variant
from cls_jax.core.errors import InputError
from cls_jax.core.files import write_json
from cls_jax.core.metrics import Summary, summarise
from cls_jax.core.paths import writing
from cls_jax.core.types import Array, PyTree
from cls_jax.methods.base import problem_of
from cls_jax.methods.cls.group_ema_answers import routed
from cls_jax.report.tables import TextTable, percent, rich_table, show
from cls_jax.streams.planted import planted_groups
from cls_jax.streams.stream import Stream, look_up
from cls_jax.training.events import Result
from cls_jax.training.group import schedule_key
from cls_jax.training.runtime.distributed import is_primary

MASKED = "clser_masked"  # masks of groups, or speeds


class Found(NamedTuple):
    """What the groups by similarity came to: how many in the mean, and bytes of one network."""

    groups: int = 1
    network: int = 0


def found_by(result: Result) -> Found:
    """Of the arm "similarity"."""
    groups = result.capacity["groups"][:, -1].mean()
    leaves = jax.tree.leaves(result.states[0].copies.vars)
    return Found(round(float(groups)), sum(leaf[0].nbytes for leaf in leaves))


def learners(
    config: Any,
    stream: Stream,
    chosen: Mapping[str, Variant],
    found: Found = Found(),  # noqa: B008
) -> list[Learner]:
    """A Learner of each arm, with what depends on the stream and on what similarity found.

    Args:
      config: has ``stream``, ``net``, ``run`` and the flags ``method`` of group_ema.
      stream: that its flags make.
      chosen: label -> the arm as its flags make it.
      found: decides how many random groups and how many further slots there are.

    Raises:
      InputError: groups are to be told, and there are none or the tasks come in another order; an
        arm is to be as large as what similarity finds, and similarity is not the first; a sweep.
    """
    if config.run.sweep:
        raise InputError("sweep varies one method, and here are several; leave it out")
    sized = [label for label in chosen if label == "random" or label.endswith("matched")]
    if sized and next(iter(chosen)) != "similarity":
        raise InputError(
            f"variants holds {sized[0]}, which is as large as the groups that similarity finds; "
            "name similarity first"
        )
    planted, flags = stream.describe.get("groups"), config.method
    to_tell = [label for label, (_, a) in chosen.items() if a.get("grouping") == "told"]
    if to_tell and (planted is None or config.stream.task_order != "given"):
        raise InputError(
            f"variants holds {to_tell[0]}, but no groups are known of the tasks as they come; "
            "leave it out, or give --groups, and no task_order"
        )
    groups = flags.max_groups if planted is None else int(str(planted))
    extra, example = found.groups * found.network, stream.source.train.x[0].nbytes + 4

    def slots(bytes_each: int) -> dict[str, int]:
        return {"memory_size": flags.memory_size + extra // bytes_each}

    told = {"told_groups": planted_groups(stream.num_tasks, groups), "max_groups": groups}
    copies = {"stable_decay": flags.ema_decay, "plastic_decay": flags.ema_decay}
    own = {
        **{
            label: {**copies, "max_groups": groups}
            for label, (m, _) in chosen.items()
            if m == MASKED
        },
        "random": {"max_groups": found.groups},
        "snapshots": {"max_groups": stream.num_tasks},
        "clser": copies,
        "er matched": slots(example),
        "derpp matched": slots(example + 4 * stream.num_classes),  # and its logits
    }
    own |= {label: {**own.get(label, {}), **told} for label in to_tell}
    given = stream, config.stream, config.net
    return [
        make_learner(method, {**arguments, **own.get(label, {})}, *given, label=label)
        for label, (method, arguments) in chosen.items()
    ]


def purity(group: np.ndarray, truth: Sequence[int]) -> np.ndarray:
    """float64[seeds]: the share of tasks that are of the commonest true group of their own group.

    Args:
      group: [seeds, T] found.
      truth: of each task.
    """
    known = np.asarray(truth)
    most = [sum(np.bincount(known[row == g]).max() for g in set(row)) for row in group]
    return np.array(most) / known.size


def router_hits(learner: Learner, result: Result) -> np.ndarray:
    """float64[seeds]: the share of the test images that are routed to their own task's group."""
    method, stream = learner.method, learner.stream
    problem, test = problem_of(method), stream.source.test
    router = method.fixed.get("router", "pixels")  # masks have no other
    assert problem is not None

    @jax.jit
    def share(state: PyTree, x: Array, index: Array, context: PyTree, task: Array) -> Array:
        mine = x[index]
        if stream.transform is not None:
            mine = stream.transform(mine, context)
        own = routed(problem, router, state, mine) == state.group[task]
        return (own & (index >= 0)).sum() / (index >= 0).sum()

    def of_seed(seed: int, state: PyTree) -> float:
        schedule = stream.schedule(schedule_key(seed), epochs=1)
        context = look_up(schedule.contexts, schedule.test_context)
        each = [
            share(state, test.x, index, jax.tree.map(lambda leaf, t=t: leaf[t], context), t)
            for t, index in enumerate(schedule.test_index)
        ]
        return float(np.mean(each))

    return np.array([of_seed(*pair) for pair in zip(result.seeds, result.states, strict=True)])


def accuracies(result: Result) -> dict[str, np.ndarray]:
    """Answer -> float64[seeds]: the last accuracy, mean over the tasks; "told" with its group."""
    names = ("route" if "told" in result.views else "answer", *result.views[1:])
    return {
        name: result.matrix[:, v, int(name == "told"), -1].mean(axis=-1)
        for v, name in enumerate(names)
    }


def _told(result: Result) -> np.ndarray:
    """float64[seeds]: the last accuracy of the answer with the task told, mean over the tasks."""
    return result.matrix[:, 0, 1, -1].mean(axis=-1)


def report_similarity(
    pairs: Sequence[tuple[Learner, Result]], workdir: str | None
) -> list[dict[str, Any]]:
    """Prints every answer of every arm beside CLS-ER's, and writes similarity.json.

    Args:
      pairs: the arms.
      workdir: where the file is written; None: nowhere.

    Returns:
      What is written: a dict for each answer of each arm.
    """
    base = None
    if clser := [result for learner, result in pairs if learner.method.name == "clser"]:
        base = {**accuracies(clser[0]), "told": _told(clser[0])}
    rows, kept = [], []
    for learner, result in pairs:
        groups, every = {}, accuracies(result)
        if learner.method.factory == MASKED:
            every["told"] = _told(result)
        if learner.method.factory in ("group_ema", MASKED):
            planted = learner.stream.describe.get("groups")
            group = np.stack([np.asarray(state.group) for state in result.states])
            groups = {"groups": np.array([len({*row}) for row in group])}
            if planted is not None:
                groups["purity"] = purity(group, planted_groups(group.shape[1], int(str(planted))))
            groups["router"] = router_hits(learner, result)
        for answer, accuracy in every.items():
            one = {"arm": learner.method.name, "answer": answer, "accuracy": accuracy, **groups}
            if base is not None:
                like = "working" if answer == "working" else "answer"
                one["minus clser"] = accuracy - base.get(answer, base[like])
            kept.append(one)
            rows.append(_row(one, first=answer in ("route", "answer")))
    if is_primary():
        header = ("arm", "answer", "accuracy", "minus CLS-ER", "groups", "purity", "router")
        note = (
            "percent, mean ± sample std; minus CLS-ER: paired, ± standard error, working and "
            "plastic nets minus its own, others minus its stable copy; router: images sent to "
            "their group"
        )
        show(rich_table(TextTable("Does similarity help?", header, tuple(rows), note)))
        if workdir is not None:
            with writing(workdir):
                write_json(Path(workdir) / "similarity.json", kept)
    return kept


def _row(one: Mapping[str, Any], first: bool) -> tuple[str, ...]:
    cells = [one["arm"] if first else "", one["answer"], percent(summarise(one["accuracy"]))]
    gap = summarise(one["minus clser"]) if "minus clser" in one else None
    cells.append("" if gap is None else _with_error(gap))
    for name, scale in (("groups", 1), ("purity", 100), ("router", 100)):
        there = first and name in one
        cells.append(f"{scale * one[name].mean():.1f}" if there else "")
    return tuple(cells)


def _with_error(gap: Summary) -> str:
    mean = f"{100 * gap.mean:+.2f}"
    return mean if gap.n == 1 else f"{mean} ± {100 * gap.standard_error:.2f}"
