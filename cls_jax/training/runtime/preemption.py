"""SIGTERM and Ctrl-C become a wish that a run grants between two chunks, after it is saved."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class StopFlag:
    """Whether this process has been asked to stop, and by which signal; None: not asked."""

    def __init__(self) -> None:
        self.signal: int | None = None


@contextlib.contextmanager
def catch_signals() -> Iterator[StopFlag]:
    """While inside, the first SIGTERM or SIGINT is only noted; a second one acts as ever.

    Outside the main thread, where Python has no signal handlers, nothing is noted.
    """
    wish = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    }

    def note(number: int, frame: object) -> None:
        del frame
        wish.signal = number
        signal.signal(number, before[number])
        name = signal.Signals(number).name
        print(f"{name}: finishing this chunk, then saving; once more to stop now", file=sys.stderr)

    for number in before:
        signal.signal(number, note)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
