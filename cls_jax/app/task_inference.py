"""Whose images are these? How often a method that infers the task finds the right one.

``evaluate.py`` scores labels. Where tasks share their labels, a wrong task may still give the right
one; here the task itself is scored, and label and task together, which is how images of unknown
task with labels of their own (the paper's GNu) are counted.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769), section 3.2; supsup card,
  sections 2 and 5.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.files import write_json
from cls_jax.core.paths import writing
from cls_jax.core.types import Array, PredictFn, PyTree, Task
from cls_jax.methods.architecture.superposition import INFERENCES, UNCERTAINTIES
from cls_jax.methods.architecture.supsup import most_labels
from cls_jax.methods.architecture.supsup_inference import TEST_GROUP, IdentifyFn, make_identify
from cls_jax.methods.base import Method
from cls_jax.report.tables import TextTable, rich_table, show
from cls_jax.streams.stream import Schedule, Stream, look_up
from cls_jax.training.evaluate import content_places, in_order
from cls_jax.training.events import Result
from cls_jax.training.group import schedule_key
from cls_jax.training.runtime.distributed import is_primary

GROUPS_AT_A_TIME = 64
"""Groups whose tasks are inferred at a time; each needs as many floats as a mask has bits."""


class Inference(NamedTuple):
    """How the task of test images is inferred.

    Attributes:
      inference, objective: arguments of supsup.
      probe_size: so many images of a group, the first, decide.
      group_size: images of a test set that are taken to be of one task, in the order in which
        evaluate gives them; 1 lets every image speak for itself.
    """

    inference: str
    objective: str
    probe_size: int
    group_size: int


def parse_inferences(words: Sequence[str]) -> dict[str, Inference]:
    """The inferences by the words for them, e.g. one_shot:H:1:128.

    Raises:
      InputError: for words that name none, or one twice.
    """
    if len(set(words)) < len(words):
        raise InputError(f"inferences is {', '.join(words)}; name each once")
    return {each: _parse_inference(each) for each in words}


def _parse_inference(words: str) -> Inference:
    parts = words.split(":")
    known = len(parts) == 4 and parts[0] in INFERENCES and parts[1] in UNCERTAINTIES
    if known and all(number.isdecimal() for number in parts[2:]):
        found = Inference(parts[0], parts[1], int(parts[2]), int(parts[3]))
        if 1 <= found.probe_size <= found.group_size:
            return found
    raise InputError(
        f"inferences holds {words!r}; give {'|'.join(INFERENCES)}:{'|'.join(UNCERTAINTIES)}"
        f":PROBE:GROUP, 1 <= PROBE <= GROUP, e.g. one_shot:H:1:{TEST_GROUP}"
    )


class Identified(NamedTuple):
    """Shares of the test images of each task, float64[T].

    Attributes:
      task: the group that the image is in was given its own task.
      both: that, and the label is right with the task told (GNu).
      label: the label is right with the task told (GG).
    """

    task: np.ndarray
    both: np.ndarray
    label: np.ndarray


def make_identification(
    predict: PredictFn, identify: IdentifyFn, stream: Stream, inference: Inference
) -> Callable[[PyTree, Schedule], Identified]:
    """Builds ``identification(state, schedule)``: all test sets of a stream in one program.

    Args:
      predict: of the method; it is told the task here.
      identify: how the method infers the task.
      stream: its test sets, which are on the device as a whole.
      inference: has the sizes of a group and of its first part, which decides.
    """
    probe_size, group_size = inference.probe_size, inference.group_size
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

            def share(hit: Array) -> Array:
                return (hit & valid).sum() / jnp.maximum(valid.sum(), 1)

            return share(own), share(own & right), share(right)

        return jax.lax.map(one, (index, contexts, classes, jnp.arange(stream.num_tasks)))

    place = content_places(stream.source.test.x)

    def identification(state: PyTree, schedule: Schedule) -> Identified:
        test = stream.source.test
        index = in_order(schedule.test_index, place)
        contexts = look_up(schedule.contexts, schedule.test_context)
        found = shares(state, test.x, test.y, index, contexts, schedule.task_classes)
        return Identified(*(np.asarray(values, np.float64) for values in found))

    return identification


def report_inference(
    method: Method,
    stream: Stream,
    results: Sequence[Result],
    inferences: Sequence[str],
    workdir: str | None,
) -> None:
    """Scores the last states by every inference given, if any: a table, and identification.json.

    Args:
      method: of the table's row supsup.
      stream: that it was trained on.
      results: of the runs.
      inferences: as ``parse_inferences`` takes them.
      workdir: where the file is written; None: nowhere.
    """
    if not inferences:
        return
    problem, found = method.at.problem, []
    net = problem.net(method.fixed["num_outputs"])
    for words, one in parse_inferences(inferences).items():
        identify = make_identify(
            net,
            problem.augment,
            inference=one.inference,
            objective=one.objective,
            num_labels=most_labels,
        )
        identification = make_identification(method.predict, identify, stream, one)
        for result in results:
            for seed, state in zip(result.seeds, result.states, strict=True):
                schedule = stream.schedule(schedule_key(seed), epochs=1)
                shares = identification(state, schedule)
                found.append({"inference": words, "method": result.method, "seed": seed})
                found[-1] |= shares._asdict()
    if not is_primary():
        return
    titles = ("task right", "task and label", "label, task told", "worst")
    rows = []
    for each in found:
        means = [each[name].mean() for name in ("task", "both", "label")]
        percent = (f"{100 * value:.2f}" for value in (*means, each["label"].min()))
        rows.append((each["inference"], each["method"], str(each["seed"]), *percent))
    note = "percent, mean over the tasks; worst: the least label accuracy, task told"
    header = ("inference", "method", "seed", *titles)
    show(rich_table(TextTable("Which task is it?", header, tuple(rows), note)))
    if workdir is not None:
        with writing(workdir):
            write_json(Path(workdir) / "identification.json", found)
