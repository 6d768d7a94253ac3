"""What ends a run, and the code that its process exits with; apart, because it needs no JAX.

Command lines print the message of each, alone and on stderr.
"""

import signal


class InputError(ValueError):
    """Something the user gave cannot work; the message names it, its value and the remedy."""

    exit_code = 2


class Diverged(ArithmeticError):
    """A metric stopped being finite; the message tells when, and the last metrics before."""

    exit_code = 1


class SaveFailed(RuntimeError):
    """A checkpoint could not be written; the message says why, what is kept, and what to do."""

    exit_code = 1


class Stopped(Exception):
    """A run that was asked to stop is saved.

    Attributes:
      exit_code: 130 after Ctrl-C, else 0.
    """

    def __init__(self, by: int | None, step: int) -> None:
        super().__init__(f"stopped and saved after step {step}")
        self.exit_code = 130 if by == signal.SIGINT else 0
