"""Whose images are these? How often a method that infers the task finds the right one.

``evaluate.py`` scores labels. Where tasks share their labels, a wrong task may still give the right
one; here the task itself is scored, and label and task together, which is how images of unknown
task with labels of their own (the paper's GNu) are counted.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769), section 3.2; supsup card,
  sections 2 and 5.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.app.build import Learner
from cls_jax.core.augment import recipe
from cls_jax.core.errors import InputError
from cls_jax.core.files import write_json
from cls_jax.core.paths import writing
from cls_jax.core.types import Array, PredictFn, PyTree, Task
from cls_jax.methods.architecture.superposition import INFERENCES, UNCERTAINTIES
from cls_jax.methods.architecture.supsup import make_identify
from cls_jax.methods.architecture.supsup_config import GROUPS_AT_A_TIME, TOGETHER
from cls_jax.nets.registry import make_net
from cls_jax.report.tables import TextTable, rich_table, show
from cls_jax.runtime.distributed import is_primary
from cls_jax.streams.stream import Schedule, Stream, look_up
from cls_jax.train.evaluate import content_places, in_order
from cls_jax.train.events import Result
from cls_jax.train.group import schedule_key

IdentifyFn = Callable[[PyTree, Array, Array], Array]
"""(state, raw examples of one task, bool of those that count) -> int32[] number of the task."""


class Way(NamedTuple):
    """A way to infer the task of test images.

    Attributes:
      inference, objective: see SupSupConfig.
      probe_size: the first so many images of a group are looked at.
      group_size: images of a test set that are taken for one task together, in the order in which
        evaluate gives them; 1 lets every image speak for itself.
    """

    inference: str
    objective: str
    probe_size: int
    group_size: int


def parse_ways(words: Sequence[str]) -> dict[str, Way]:
    """The ways by the words for them, e.g. one_shot:H:1:128.

    Raises:
      InputError: for words that name no way, or one twice.
    """
    if len(set(words)) < len(words):
        raise InputError(f"ways is {', '.join(words)}; name each way once")
    return {each: _parse_way(each) for each in words}


def _parse_way(words: str) -> Way:
    parts = words.split(":")
    known = len(parts) == 4 and parts[0] in INFERENCES and parts[1] in UNCERTAINTIES
    if known and all(number.isdecimal() for number in parts[2:]):
        way = Way(parts[0], parts[1], int(parts[2]), int(parts[3]))
        if 1 <= way.probe_size <= way.group_size:
            return way
    raise InputError(
        f"ways holds {words!r}; give {'|'.join(INFERENCES)}:{'|'.join(UNCERTAINTIES)}:PROBE:GROUP, "
        f"1 <= PROBE <= GROUP, e.g. one_shot:H:1:{TOGETHER}"
    )


class Identified(NamedTuple):
    """Shares of the test images of each task, float64[T].

    Attributes:
      task: the group that the image is in was given its own task.
      both: that, and the label is right with the task told (GNu).
      told: the label is right with the task told (GG).
    """

    task: np.ndarray
    both: np.ndarray
    told: np.ndarray


def make_identification(
    predict: PredictFn, identify: IdentifyFn, stream: Stream, way: Way
) -> Callable[[PyTree, Schedule], Identified]:
    """Builds ``identification(state, schedule)``: all test sets of a stream in one program.

    Args:
      predict: of the method; it is told the task here.
      identify: how the method infers the task.
      stream: its test sets, which are on the device as a whole.
      way: has the sizes of a group and of its front part that is looked at.
    """
    probe_size, group_size = way.probe_size, way.group_size
    width = stream.schedule(jax.random.key(0), epochs=1).test_index.shape[1]
    num_groups = -(-width // group_size)
    rows = np.arange(num_groups)[:, None] * group_size + np.arange(probe_size)
    group_of = np.arange(width) // group_size

    @jax.jit
    def shares(state: PyTree, x: Array, y: Array, index: Array, contexts: PyTree, classes: Array):
        def one(each: tuple) -> tuple[Array, Array, Array]:
            index, context, classes, number = each
            mine, valid = x[index], index >= 0
            if stream.transform is not None:
                mine = stream.transform(mine, context)
            task = Task(index=number, classes=classes, seen=jnp.ones_like(classes))
            right = jnp.argmax(predict(state, mine, task), axis=1) == y[index]

            def whose(probe: Array) -> Array:
                there = jnp.minimum(probe, width - 1)
                return identify(state, mine[there], (probe < width) & valid[there])

            found = jax.lax.map(whose, rows, batch_size=GROUPS_AT_A_TIME)
            own = (found == number)[group_of]
            share = lambda hit: (hit & valid).sum() / jnp.maximum(valid.sum(), 1)  # noqa: E731
            return share(own), share(own & right), share(right)

        return jax.lax.map(one, (index, contexts, classes, jnp.arange(stream.num_tasks)))

    place = content_places(stream.source.test.x)

    def identification(state: PyTree, schedule: Schedule) -> Identified:
        test = stream.source.test
        contexts = look_up(schedule.contexts, schedule.test_context)
        told = in_order(schedule.test_index, place), contexts, schedule.task_classes
        found = shares(state, test.x, test.y, *told)
        return Identified(*(np.asarray(values, np.float64) for values in found))

    return identification


def report_inference(config: Any, learner: Learner, results: Sequence[Result]) -> None:
    """Scores the last states in every way asked for, if any: a table, and identification.json.

    Args:
      config: of the script; has ``ways`` and all that made the learner.
      learner: of the table's row supsup.
      results: of ``execute``.
    """
    if not config.ways:
        return
    stream = learner.stream
    net = make_net(config.net, config.method.num_outputs)
    shape, normalisation = stream.source.test.x.shape[1:], config.stream.normalisation
    augment = recipe(shape, normalisation=normalisation)  # as the method's, at test
    found = []
    for words, way in parse_ways(config.ways).items():
        asked = replace(config.method, inference=way.inference, objective=way.objective)
        identify = make_identify(asked, net, augment=augment)
        identification = make_identification(learner.method.predict, identify, stream, way)
        for result in results:
            for seed, state in zip(result.seeds, result.states, strict=True):
                schedule = stream.schedule(schedule_key(seed), epochs=1)
                shares = identification(state, schedule)
                found.append({"way": words, "method": result.method, "seed": seed})
                found[-1] |= shares._asdict()
    if not is_primary():
        return
    header = ("way", "method", "seed", "task right", "task and label", "label, task told", "worst")
    rows = []
    for one in found:
        means = [one[name].mean() for name in ("task", "both", "told")]
        percent = (f"{100 * value:.2f}" for value in (*means, one["told"].min()))
        rows.append((one["way"], one["method"], str(one["seed"]), *percent))
    note = "percent, mean over the tasks; worst: the least label accuracy, task told"
    show(rich_table(TextTable("Which task is it?", header, tuple(rows), note)))
    if config.run.workdir is not None:
        with writing(config.run.workdir):
            write_json(Path(config.run.workdir) / "identification.json", found)
