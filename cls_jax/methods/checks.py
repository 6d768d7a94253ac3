"""Checks of arguments that several methods share."""

from cls_jax.core.errors import InputError


def check_replay(memory_size: int, replay_size: int) -> None:
    """Raises InputError unless a replay draw of at least one example fits into the memory."""
    if memory_size < 1:
        raise InputError(
            f"memory_size={memory_size} leaves nothing to replay; use at least 1 slot, or sgd"
        )
    if not 1 <= replay_size <= memory_size:
        raise InputError(
            f"replay_size={replay_size} must be between 1 and the memory's {memory_size} slots"
        )


def check_task_slots(memory_size: int, num_tasks: int) -> None:
    """Raises InputError unless each task can have a slot of its own."""
    if memory_size < num_tasks:
        raise InputError(
            f"memory_size={memory_size} gives none of the {num_tasks} tasks a slot of its own; "
            f"use at least {num_tasks}"
        )


def check_annealing(annealing_steps: int) -> None:
    """Raises InputError unless ``annealing_steps`` is at least 1."""
    if annealing_steps < 1:
        raise InputError(
            f"annealing_steps={annealing_steps} is no interval; give at least 1, and "
            "annealing_rate 1 for a rate that stays"
        )


def check_milestones(name: str, milestones: tuple[int, ...]) -> None:
    """Raises InputError unless the epochs called ``name`` rise and are at least 1."""
    rising = list(milestones) == sorted(set(milestones))
    if not rising or any(epoch < 1 for epoch in milestones):
        raise InputError(f"{name} is {milestones}; give rising numbers of epochs, each at least 1")


def warmup_advice(warmup_epochs: int, num_steps: int, num_epochs: int) -> str:
    """A warning where the rate never reaches its height, else ""; see ``Algorithm.advice``.

    Args:
      warmup_epochs: passes over each task in which the rate rises.
      num_steps: of the stream.
      num_epochs: passes over its last task.
    """
    del num_steps
    told = f"warmup_epochs {warmup_epochs} takes all of {num_epochs} passes over a task; use "
    return "" if num_epochs > warmup_epochs else told + "--warmup-epochs 0, or more --epochs"
