"""The optimizer of methods whose paper leaves it open: by its name, or a factory of one's own.

It is asked for once, of the problem, so methods that are compared learn with the same one. Config
and names need no JAX.

Source: optax, which does all of it; momentum and weight decay of "sgd" are torch.optim.SGD's.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from cls_jax.core.checks import check_hyper, check_literals, check_range, plain
from cls_jax.core.errors import InputError
from cls_jax.core.own import OPTIMIZERS

if TYPE_CHECKING:
    import optax

    from cls_jax.core.types import Scalar
    from cls_jax.methods.base import Algorithm
    from cls_jax.methods.problem import Problem

OptimizerFactory = Callable[..., "optax.GradientTransformation"]
"""(learning_rate) -> transformation; a number of the config goes by name where it has a place."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """With what methods learn whose paper leaves it open.

    Attributes:
      optimizer: sgd, adam, adamw, another of optax by its name (lion, rmsprop, ...), or one of your
        own, by its name in a file of --import. The learning rate is the method's.
      momentum: of sgd as in PyTorch, in [0, 1); none if not given.
      weight_decay: sgd adds it, times the parameters, to the gradient, adamw takes it off the
        parameters, times the rate; if not given none, and what optax says of adamw (1e-4).
      schedule: the learning rate stays, or falls along a half cosine to 0 at the end of the whole
        stream; updates are counted, and tasks do not begin it anew.
      warmup_steps: of a cosine: updates in which the rate first rises from 0, linearly.
      schedule_steps: of a cosine: updates until 0, warm-up included; those of the stream if not
        given, as seed 0 has them (batches of another seed may be a few more or less).
      clip_norm: most that the global norm of a gradient may be as the optimizer gets it.
    """

    optimizer: str = "sgd"
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int | None = None
    schedule_steps: int | None = None
    clip_norm: float | None = None


class Optimizer(NamedTuple):
    """Learning rate -> the optax optimizer; equal for equal words, plain SGD without any.

    Attributes:
      config: what was asked for.
      factory: what makes it; None is sgd.
    """

    config: OptimizerConfig = OptimizerConfig()
    factory: OptimizerFactory | None = None

    def __call__(self, learning_rate: "Scalar") -> "optax.GradientTransformation":
        """The optimizer at this rate, which may be traced.

        Its count, and so the schedule, moves by one in each update that a method makes.

        Args:
          learning_rate: float32[] >= 0; the highest of a schedule.
        """
        import optax

        from cls_jax.methods.steps import torch_sgd

        config, rate = self.config, _rate(self.config, learning_rate)
        if self.factory is not None:
            made = self.factory(rate, **_numbers(config))
        elif config.weight_decay:
            made = torch_sgd(rate, config.momentum, config.weight_decay)
        else:
            made = optax.sgd(rate, config.momentum)
        if config.clip_norm is None:
            return made
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), made)


def make_optimizer(config: OptimizerConfig, factory: OptimizerFactory | None = None) -> Optimizer:
    """The optimizer that a config asks for.

    Args:
      config: a schedule's length is given.
      factory: one's own, whatever the config's name; None: the one of that name.

    Raises:
      InputError: for an unknown name, numbers out of their range or that the optimizer has no place
        for, or a factory that gives no optax optimizer.
    """
    config = plain(config)
    _check(config)
    if factory is None:
        factory = _named(config.optimizer)
    made = Optimizer(config, factory)
    if factory is not None:
        _check_factory(made, factory)
    return made


def check_asked(
    name: str, build: "Callable[..., Algorithm]", problem: "Problem", arguments: Mapping[str, Any]
) -> None:
    """Raises InputError if the problem has another optimizer than plain SGD, and a factory never
    calls ``problem.optimizer`` as it builds its algorithm.

    Args:
      name: of the method.
      build: (problem, **arguments) -> Algorithm.
      problem, arguments: what it is given.
    """
    if problem.optimizer == Optimizer():
        return
    asked = []

    def noted(*rate: Any, **numbers: Any) -> "optax.GradientTransformation":
        asked.append(rate)
        return Optimizer()(0.0)

    build(problem._replace(optimizer=problem.optimizer._replace(factory=noted)), **arguments)
    if not asked:
        refuse((name,), problem.optimizer.config)


def refuse(names: Sequence[str], config: OptimizerConfig) -> NoReturn:
    """Raises InputError: these methods do not learn with what the config asks for."""
    own = "has its own optimizer" if len(names) == 1 else "have their own optimizers"
    raise InputError(
        f"{chosen(config)}, but {', '.join(names)} {own} (no "
        "problem.optimizer in the factory); leave that out, or choose other methods"
    )


def chosen(config: OptimizerConfig) -> str:
    """What a config asks for beyond plain SGD, for a sentence; "" if nothing."""
    found = [(field.name, getattr(config, field.name)) for field in fields(config)]
    usual = vars(OptimizerConfig())
    return ", ".join(f"{name} is {value}" for name, value in found if value != usual[name])


def _rate(config: OptimizerConfig, learning_rate: "Scalar") -> "Scalar | optax.Schedule":
    if config.schedule == "constant":
        return learning_rate
    import optax

    warmup = config.warmup_steps or 0
    assert config.schedule_steps is not None  # make_optimizer
    cosine = optax.cosine_decay_schedule(learning_rate, config.schedule_steps - warmup)  # pyright: ignore[reportArgumentType]
    if not warmup:
        return cosine
    rise = optax.linear_schedule(0.0, learning_rate, warmup)  # pyright: ignore[reportArgumentType]
    return optax.join_schedules([rise, cosine], [warmup])


def _numbers(config: OptimizerConfig) -> dict[str, float]:
    """What the optimizer itself is given, beside its rate."""
    found = {name: getattr(config, name) for name in ("momentum", "weight_decay")}
    return {name: value for name, value in found.items() if value is not None}


def _check(config: OptimizerConfig) -> None:
    """Raises InputError for what fits no optimizer."""
    sentence = "{name} is {value!r}; use one of {listed}"
    check_literals(OptimizerConfig, {"schedule": config.schedule}, sentence)
    check_hyper(_numbers(config))
    if config.clip_norm is not None:
        check_range("clip_norm", config.clip_norm, 0, above=True)
    lengths = {name: getattr(config, name) for name in ("warmup_steps", "schedule_steps")}
    for name, steps in lengths.items():
        if steps is not None and config.schedule == "constant":
            raise InputError(
                f"{name} is {steps}, but schedule is constant, which has no length; give schedule "
                f"cosine, or leave {name} out"
            )
        if steps is not None:
            check_range(name, steps, 1, 2**31 - 1)
    if config.schedule == "constant":
        return
    if config.schedule_steps is None:
        raise InputError("schedule is cosine and its length is not known; give schedule_steps")
    if (config.warmup_steps or 0) >= config.schedule_steps:
        raise InputError(
            f"warmup_steps is {config.warmup_steps}, and the whole schedule has "
            f"{config.schedule_steps} updates; give fewer, or a larger schedule_steps"
        )


def _named(name: str) -> OptimizerFactory | None:
    """The factory of this name, one's own or optax's; None for sgd."""
    import optax

    own = OPTIMIZERS.get(name)
    theirs: OptimizerFactory | None = getattr(optax, name, None)
    if own is not None and theirs is not None:
        raise InputError(f"optax has {name}, too; give your optimizer another name")
    if own is not None or name == "sgd":
        return own
    first = next(iter(inspect.signature(theirs).parameters), "") if callable(theirs) else ""
    if not callable(theirs) or first != "learning_rate":
        raise InputError(
            f"optimizer is {name!r}; use sgd, adam, adamw, another of optax that takes a "
            "learning_rate first, or import the file that registers it with @cls.optimizer"
        )
    return theirs


def _check_factory(optimizer: Optimizer, factory: OptimizerFactory) -> None:
    """Raises InputError unless it takes its numbers and gives an optimizer of gradients alone."""
    import jax
    import jax.numpy as jnp
    import optax

    name, places = optimizer.config.optimizer, inspect.signature(factory).parameters
    for number, value in _numbers(optimizer.config).items():
        if number not in places:
            raise InputError(
                f"{number} is {value}, but the optimizer {name} takes none; leave it out, or "
                "choose another optimizer: sgd takes both numbers, adamw weight_decay"
            )

    def once(rate: Any, params: Any) -> Any:
        made = optimizer(rate)
        state = made.init(params)
        updates, after = made.update(params, state, params)
        return (params, state), (optax.apply_updates(params, updates), after)

    rate, params = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((), (2, 3)))
    try:
        before, after = jax.eval_shape(once, rate, {"kernel": params})
        why = "" if jax.tree.flatten(before) == jax.tree.flatten(after) else "its state changes"
    except Exception as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
    if why:
        raise InputError(
            f"optimizer {name} cannot be used ({why}); give a function from a learning rate, which "
            "may be traced or a schedule, to an optax optimizer of gradients alone"
        )
