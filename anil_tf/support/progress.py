"""Shows the progress of long work on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 30.0  # where no bar can be drawn: short work stays quiet

T = TypeVar("T")


def track(
    items: Iterable[T], description: str, total: int | None = None, unit: str = ""
) -> Iterator[T]:
    """Yields the items, and shows on stderr how many are done.

    On a terminal and in a notebook it draws a bar that disappears at the end. Elsewhere, such as in
    the log of a job, it writes a line after each half minute.

    Args:
        items: Items to work on.
        description: Name of the work, such as `"Evaluating"`.
        total: Number of items; their length by default.
        unit: Name of one item, such as `"episode"`.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    bar = tqdm(items, description, total, leave=False, unit=unit, disable=None)
    if not bar.disable:
        yield from bar
        return
    written = first = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if done == 1:
            first = now  # the first item compiles what the others run: it says nothing of them
        if now - written >= SECONDS_BETWEEN_LINES:
            written = now
            line = f"{description}: {done}" + (f" of {total}" if total else "")
            if total and done > 1:
                left = (now - first) / (done - 1) * (total - done)
                line += f", about {duration(left)} left"
            print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time to read: `40 s`, `7 min`, `2 h 5 min`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
