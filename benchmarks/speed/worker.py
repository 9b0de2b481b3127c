"""The requests to an implementation: one JSON line per request on standard input.

Run in the implementation's own environment, which has NumPy and little else.
"""

import argparse
import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

THREADS = 2
DEVICE = os.environ.get("BENCH_DEVICE", "cpu")  # set by `compare`
HALF = ("bfloat16", "float16")  # words of variants
EXECUTION = 50  # steps of one computation, in variants that run several


class Implementation(Protocol):
    """One way to train on, and adapt to, the tasks of an exchange file."""

    def check(self) -> tuple[float, float]:
        """Loss and gradient norm of the first step; changes no weight."""

    def train(self, steps: int) -> list[float]:
        """Seconds of each training step; where several are one computation, its mean step."""

    def adapt(self, calls: int) -> list[float]:
        """Seconds of each call that adapts to the first task and predicts its queries."""


def keep_to_two_cores() -> None:
    """Limits the process to two cores and two threads; call before importing the framework.

    Beside a GPU the host may use all of its cores.
    """
    if DEVICE == "gpu":
        return
    cores = sorted(os.sched_getaffinity(0))[:THREADS]
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(THREADS)


def return_memory() -> None:
    """Gives free memory back to the machine, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def serve(make: Callable[[str, dict[str, Any]], Implementation]) -> None:
    """Answers the requests `{"call": name, "count": n}` until the input ends; `start` does nothing.

    Between requests the memory goes back to the machine, for all implementations of a workload
    wait at once. So the first of what is counted finds memory and caches cold, or still compiles,
    and is left out.
    """
    import numpy as np

    parser = argparse.ArgumentParser()
    parser.add_argument("variant")
    parser.add_argument("exchange", type=Path)
    arguments = parser.parse_args()
    # Output of a framework must not mix with the replies.
    answers, sys.stdout = sys.stdout, sys.stderr
    with np.load(arguments.exchange) as file:
        implementation = make(arguments.variant, dict(file))
    for line in sys.stdin:
        request = json.loads(line)
        call = list if request["call"] == "start" else getattr(implementation, request["call"])
        answer = call(request["count"] + 1)[1:] if "count" in request else call()
        print(json.dumps(answer), file=answers, flush=True)
        return_memory()
