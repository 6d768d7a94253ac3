"""What needs more memory than this machine has is refused before it is made."""

import os

from cls_jax.core.errors import InputError

ROW_BYTES = 13
"""At least so many for one example in a schedule: its number, its label's mask, its shuffle."""


def check_bytes(what: str, needed: int, remedy: str) -> None:
    """Raises InputError if ``needed`` bytes are more than the memory that this machine has.

    Args:
      what: needs them, as the user knows it with its value, e.g. "image_size 4096 on digits".
      needed: bytes, estimated before anything is made.
      remedy: what to give instead, e.g. "give a smaller image_size".
    """
    there = memory_bytes()
    if there is not None and needed > there:
        raise InputError(
            f"{what} needs {_told_bytes(needed)} of memory, but this machine has "
            f"{_told_bytes(there)}; {remedy}"
        )


def check_schedule(name: str, value: int, examples: int) -> None:
    """Raises InputError if the table of ``value`` passes over ``examples`` needs too much memory.

    Args:
      name, value: of the number of passes, as the user knows it.
      examples: of one pass over all tasks.
    """
    needed = ROW_BYTES * examples * value
    check_bytes(f"{name} {value} of {examples} examples", needed, f"give a smaller {name}")


def memory_bytes() -> int | None:
    """Physical memory of this machine in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _told_bytes(number: int) -> str:
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} bytes"
