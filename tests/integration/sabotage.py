"""Runs a script and kills the process (SIGKILL) at a chosen moment of it.

  python tests/integration/sabotage.py MOMENT NUMBER DELAY SCRIPT ARGUMENTS...

MOMENT is "steps", "save", "evaluation" or "boundary": DELAY seconds after the NUMBER-th of these
begins; or "clock": DELAY seconds after the start. Nothing else of the script is changed.
"""

import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable


def doomed(function: Callable, number: int, delay: float) -> Callable:
    """``function``, whose ``number``-th call is the last thing that the process does."""
    calls = 0

    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number:
            kill_after(delay)
        return function(*args, **kwargs)

    return call


def kill_after(delay: float) -> None:
    """SIGKILL from another thread, or at once."""

    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if delay <= 0:
        end()
    timer = threading.Timer(delay, end)
    timer.daemon = True
    timer.start()


def main(moment: str, number: int, delay: float) -> None:
    """Lays the mine."""
    if moment == "clock":
        kill_after(delay)
    elif moment == "save":
        import orbax.checkpoint as ocp

        ocp.CheckpointManager.save = doomed(ocp.CheckpointManager.save, number, delay)
    else:
        from cls_jax.training import programs

        factory = {
            "steps": "make_advance",
            "evaluation": "make_evaluate",
            "boundary": "make_boundary",
        }[moment]
        make = getattr(programs, factory)

        def mine(*args, **kwargs) -> Callable:
            return doomed(make(*args, **kwargs), number, delay)

        setattr(programs, factory, mine)


if __name__ == "__main__":
    moment, number, delay, script, *arguments = sys.argv[1:]
    main(moment, int(number), float(delay))
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(script))
    runpy.run_path(script, run_name="__main__")
