"""Learning from batches that nobody knows beforehand: one learner, fed by its user."""

from contextlib import ExitStack
from pathlib import Path

import jax

from cls_jax.app.api import Record, check_kept, learner_of
from cls_jax.app.main import saving
from cls_jax.app.online.learner import OnlineLearner
from cls_jax.app.run_config import RunConfig, check_outputs
from cls_jax.core.checks import check_seeds, short_repr
from cls_jax.core.errors import InputError
from cls_jax.methods.base import Method, problem_of
from cls_jax.streams.open_stream import is_open
from cls_jax.streams.stream import Stream
from cls_jax.training.plan import Plan, resolve
from cls_jax.training.programs import make_programs
from cls_jax.training.sizes import check_held


def online(
    method: Method,
    stream: Stream,
    *,
    seed: int = 0,
    workdir: str | Path | None = None,
    save_every: str = "60s",
) -> OnlineLearner:
    """A learner that is given its batches one by one.

    The batches of a known stream, given in its order, lead to the states of ``train``, bit for bit.

    Args:
      method: what learns.
      stream: of ``open_stream``: sizes alone.
      seed: fixes initial weights and every draw.
      workdir: where the learner is saved; the same call goes on where a killed process was, bit for
        bit, and ``load`` reads it back. Nothing is written if not given.
      save_every: how often: "60s", "5m", "200steps" or "never"; it is saved when it is closed, too.

    Raises:
      InputError: for a method that cannot learn so, or a bad stream, seed or workdir.

    Example:
      >>> import cls_jax as cls
      >>> stream = cls.open_stream((8, 8, 1), num_classes=10, batch_size=50)
      >>> method = cls.sgd(cls.problem(stream, net="mlp", hidden=(16,)))
      >>> learner = cls.online(method, stream)
      >>> data = cls.load_data("digits", size=8)
      >>> learner.observe(data.train.x[:50, ..., :1], data.train.y[:50])
      >>> learner.predict(data.test.x[:3, ..., :1]).shape
      (3, 10)
    """
    if not isinstance(stream, Stream) or not is_open(stream):
        raise InputError(
            f"stream is {short_repr(getattr(stream, 'name', stream))}; give one of open_stream, or "
            "train(method, stream) on a stream that is known"
        )
    if method.needs.pooled:
        raise InputError(f"{method.name} learns all tasks at once; nothing can be given it in turn")
    if method.needs.end_data == "test":
        raise InputError(f"{method.name}: an open stream has no test examples; use others")
    if jax.process_count() > 1:
        raise InputError(f"an online learner is one process, and these are {jax.process_count()}")
    (seed,) = check_seeds((seed,))
    check_kept(method, workdir)
    _check_fits(method, stream)
    plan = resolve(Plan(chunk=1), method, stream, 1)
    learner = learner_of(method, stream)
    check_held(method, stream, {**learner.recipe, "stream": {}}, 1)
    place = None if workdir is None else str(workdir)
    config = RunConfig(seeds=(seed,), workdir=place, save_every=save_every)
    check_outputs(config)
    record = Record(config, {**method.fixed, **method.hyper}, {}, learner.recipe)
    with ExitStack() as stack:
        (keep,) = stack.enter_context(saving([learner], [{"": method.hyper}], config, record))
        programs = make_programs(method, stream, plan)
        folder = None if config.workdir is None else Path(config.workdir)
        held = ExitStack()
        learning = OnlineLearner(programs, seed, keep, folder, held)
        held.enter_context(stack.pop_all())
        return learning


def _check_fits(method: Method, stream: Stream) -> None:
    """Raises InputError if the method was made for a problem of other sizes."""
    problem = problem_of(method)
    if problem is None:
        return
    mine = (problem.num_classes, problem.num_tasks, problem.shape)
    theirs = (stream.num_classes, stream.num_tasks, stream.source.train.x.shape[1:])
    for name, one, other in zip(("num_classes", "num_tasks", "shape"), mine, theirs, strict=True):
        if one is not None and one != other:
            raise InputError(
                f"stream has {name} {other}, and {method.name} was made for {one}; make it for "
                "cls.problem(stream, ...)"
            )
