"""A head for each of very many tasks: what `anil adapt-many` does.

The input is divided into chunks: the row groups of Parquet files, or groups of TFRecords. A worker
reads a chunk, fits the heads of its tasks in the Gram form, many at a time, and writes one part of
the output, which appears under its name when it is whole. So an interrupted run resumes where it
stopped, and a worker that is killed loses no finished part and repeats none.

Output: `heads/part-*.parquet` with the columns

    task          as given
    kernel        binary: float32 little-endian [D, N]
    bias          list of float32, N of them
    initial_loss  float32: mean cross-entropy of the support set before adaptation
    final_loss    float32: and after it
    rows_used     int32

and `errors/part-*.parquet` (task, reason) for the tasks that cannot be learned; `run.json` keeps
the settings. `pyarrow.parquet.read_table(folder)` reads either folder.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from anil_tf.export.bulk.fit import ERRORS, HEADS, Job, find_done
from anil_tf.export.bulk.runners import run_local, run_ray
from anil_tf.export.bulk.task_table import Chunk, list_chunks
from anil_tf.export.head import Head
from anil_tf.export.manifest import Manifest
from anil_tf.export.runtime.onnx import OnnxRuntime
from anil_tf.support.files import clear_partial
from anil_tf.support.json_files import write_json

SETTINGS = "run.json"


class Summary(NamedTuple):
    """The result of a bulk run.

    Attributes:
        heads: Number of tasks that have a head.
        heads_from_before: Number of these heads that an interrupted run had fitted.
        errors: Number of tasks that could not be learned; `errors/` says why.
        loss_rose: Number of heads whose support loss rose.
        incomplete: Number of heads with a class that has no row.
        seconds: Duration of this run.
    """

    heads: int
    heads_from_before: int
    errors: int
    loss_rose: int
    incomplete: int
    seconds: float


def adapt_many(
    bundle: str | Path,
    tasks: str | Path,
    output: str | Path,
    *,
    learning_rate: float | None = None,
    steps: int | None = None,
    runner: Literal["local", "ray"] = "local",
    workers: int | None = None,
) -> Summary:
    """Fit a head for a bundle's backbone to each of many tasks, and write them as Parquet.

    Args:
        bundle: Folder of the bundle.
        tasks: A Parquet or TFRecord file, or a folder of them; `task_table` describes its columns.
        output: Folder of the heads; an unfinished run in it is resumed.
        learning_rate: Learning rate of adaptation; the bundle's own by default.
        steps: Number of steps of adaptation; the bundle's own by default.
        runner: `"local"` (processes of this machine) or `"ray"` (the cluster of `RAY_ADDRESS`).
        workers: Number of local processes; one per core by default.

    Returns:
        Counts of the heads and of the tasks that could not be learned.

    Raises:
        FileNotFoundError: The bundle or the tasks are not there.
        ImportError: Ray is not installed.
        OSError: Workers die again and again, or the output cannot be written.
        ValueError: The bundle or the tasks are damaged, or `output` holds a run of other tasks or
            with other settings.

    Example:
        summary = adapt_many("bundle", "tasks.parquet", "heads")
        for task, head in read_heads("heads", read_manifest(Path("bundle"))):
            store.put(str(task), head)
    """
    if runner not in ("local", "ray"):
        raise ValueError(f"runner must be 'local' or 'ray'. Received: {runner!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1. Received: workers={workers}")
    start = time.perf_counter()
    job, chunks = prepare(Path(bundle), Path(tasks), Path(output), learning_rate, steps)
    found = {chunk: find_done(job, chunk) for chunk in chunks}
    finished = [done for done in found.values() if done]
    waiting = [chunk for chunk, done in found.items() if not done]
    before = sum(done.heads for done in finished)
    if runner == "ray":
        running = run_ray(job, waiting)
    else:
        running = run_local(job, waiting, workers or os.cpu_count() or 1)
    total = sum(chunk.tasks for chunk in waiting)
    with tqdm(total=total, desc="Heads", unit=" tasks", disable=None) as progress:
        for done in running:
            finished.append(done)
            progress.update(done.heads + done.errors)
    _clear_unfinished(Path(output))
    return Summary(
        heads=sum(done.heads for done in finished),
        heads_from_before=before,
        errors=sum(done.errors for done in finished),
        loss_rose=sum(done.rose for done in finished),
        incomplete=sum(done.incomplete for done in finished),
        seconds=time.perf_counter() - start,
    )


def prepare(
    bundle: Path, tasks: Path, output: Path, learning_rate: float | None, steps: int | None
) -> tuple[Job, list[Chunk]]:
    """Begin a run, or prepare to resume one.

    Returns:
        The job and all of its chunks, also the finished ones.

    Raises:
        FileNotFoundError: The bundle or the tasks are not there.
        ValueError: The bundle or the tasks are damaged, or `output` holds a run of other tasks or
            with other settings.
    """
    runtime = OnnxRuntime(bundle)
    job = Job(
        str(bundle.resolve()),
        str(output.resolve()),
        runtime.inner_lr if learning_rate is None else learning_rate,
        runtime.inner_steps if steps is None else steps,
    )
    chunks = list_chunks(tasks.resolve())
    settings: dict[str, Any] = {
        "backbone_sha256": runtime.manifest.backbone_sha256,
        "learning_rate": job.learning_rate,
        "steps": job.steps,
        "tasks": {file: os.path.getsize(file) for file in {chunk.file: 0 for chunk in chunks}},
    }
    path = output / SETTINGS
    if path.is_file():
        begun = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key, value in settings.items() if begun.get(key) != value]
        if changed:
            raise ValueError(
                f"{output} was begun with other {', '.join(changed)}. Choose another output"
            )
    elif output.is_dir() and any(output.iterdir()):
        raise ValueError(
            f"{output} is not empty, and no run of this command. Choose another output"
        )
    for folder in (HEADS, ERRORS):
        (output / folder).mkdir(parents=True, exist_ok=True)
    _clear_unfinished(output)
    write_json(path, settings)
    return job, chunks


def _clear_unfinished(output: Path) -> None:
    """Delete the files that killed workers left unfinished. Do not call while workers write."""
    for folder in (HEADS, ERRORS):
        clear_partial(output / folder)


def read_heads(output: str | Path, manifest: Manifest) -> Iterator[tuple[Any, Head]]:
    """Every task's id and head, for a store; the classes are named `"0"`, `"1"` and so on.

    Args:
        output: Folder of a finished run.
        manifest: Manifest of the bundle that it ran with.
    """
    for part in sorted((Path(output) / HEADS).glob("part-*.parquet")):
        with pq.ParquetFile(part) as parquet:
            for batch in parquet.iter_batches(1024, columns=["task", "kernel", "bias"]):
                for row in batch.to_pylist():
                    bias = np.array(row["bias"], np.float32)
                    kernel = np.frombuffer(row["kernel"], "<f4").reshape(-1, bias.size)
                    names = tuple(map(str, range(bias.size)))
                    head = Head.without_support(kernel, bias, names, manifest.backbone_sha256)
                    yield row["task"], head
