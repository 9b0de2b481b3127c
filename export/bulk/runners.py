"""Runs the chunks of a bulk run: in processes of this machine, or on a Ray cluster.

Ray, because it is a Python package and nothing else (no Java, no service to set up: without a
cluster it starts one on this machine) and because its tasks survive the death of a worker or a
machine. A chunk needs no more of it than that: workers read and write the files themselves, and no
data passes between them. On a cluster the bundle, the tasks and the output are on a file system
that all machines have under one path.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection

from anil_tf.export.bulk.fit import Done, Job, fit_chunk
from anil_tf.export.bulk.task_table import Chunk

DYING = "workers die before they finish a part: is there too little memory?"
LIVES = 3  # how often in a row workers may die before a chunk is finished


def run_local(job: Job, chunks: list[Chunk], workers: int) -> Iterator[Done]:
    """Fit chunks in processes of this machine, a core each; yields as they finish.

    Raises:
        OSError: Workers die again and again.
        ValueError: A chunk cannot be read.
    """
    # Small matrices gain nothing from threads of their own, and workers would fight for the cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    waiting, lives = chunks, LIVES
    while waiting:
        # Not forked: ONNX Runtime and Arrow have threads.
        pool = futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_begin_worker
        )
        try:
            running = {pool.submit(fit_chunk, job, chunk): chunk for chunk in waiting}
            left = set(waiting)
            with contextlib.suppress(BrokenProcessPool):  # begun anew with what is left
                for future in futures.as_completed(running):
                    done = future.result()
                    left.remove(running[future])
                    yield done
        finally:
            pool.shutdown(cancel_futures=True)
        lives = LIVES if len(left) < len(waiting) else lives - 1
        if not lives:
            raise OSError(DYING)
        waiting = [chunk for chunk in waiting if chunk in left]


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """Otherwise the workers of a parent that was killed would wait for work for ever."""
    connection.wait([sentinel])
    os._exit(1)


def run_ray(job: Job, chunks: list[Chunk]) -> Iterator[Done]:
    """Fit chunks on the Ray cluster of `RAY_ADDRESS`, else on one made here for the purpose.

    Raises:
        ImportError: Ray is not installed.
        OSError: Workers die again and again.
        ValueError: A chunk cannot be read.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ImportError("--runner ray needs: pip install ray") from error
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        fit = ray.remote(num_cpus=1, max_retries=LIVES)(fit_chunk)
        running = [fit.remote(job, chunk) for chunk in chunks]
        while running:
            finished, running = ray.wait(running)
            yield ray.get(finished[0])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.WorkerCrashedError as error:
        raise OSError(DYING) from error
    finally:
        ray.shutdown()
