"""Delays Ctrl-C until a batch of training is finished, so that a checkpoint can be made."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Delay Ctrl-C to the end of the block; a second one interrupts at once.

    Yields a function that returns whether Ctrl-C was pressed. Outside the main thread, or where somebody else
    handles the signal, nothing is delayed.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield lambda: False
        return
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(received)
    except Exception as error:
        if received:
            # Ctrl-C reaches the processes that load images too, and their end is an error here.
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt
