"""Fits the heads of one chunk of tasks and writes them: what a worker of a bulk run does.

A chunk becomes one part of the output, which appears under its name when it is complete: a part
that exists is finished.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anil_tf.export.bulk.gram import Adaptations, adapt_tasks
from anil_tf.export.bulk.task_files import open_tasks
from anil_tf.export.bulk.task_table import Chunk, Errors, Tasks, read_chunk
from anil_tf.export.runtime.base import BATCH
from anil_tf.export.runtime.onnx import OnnxRuntime
from anil_tf.support.files import replacing

TILE_TASKS = 256  # tasks that are adapted together: their matrices stay in a core's cache
TILE_BYTES = 2**27  # most memory of their matrices
HEADS, ERRORS = "heads", "errors"  # folders of the output
DOUBTS = (b"rose", b"incomplete")  # metadata of a file of heads: two counts of `Done`


class Job(NamedTuple):
    """Settings of a bulk run; sent to other processes and machines."""

    bundle: str
    output: str
    learning_rate: float
    steps: int


class Done(NamedTuple):
    """A finished chunk.

    Attributes:
        heads: Number of tasks that have a head.
        errors: Number of tasks that have none.
        rose: Number of heads whose support loss rose.
        incomplete: Number of heads with a class that has no row.
    """

    heads: int
    errors: int
    rose: int = 0
    incomplete: int = 0


def find_done(job: Job, chunk: Chunk) -> Done | None:
    """The counts of a chunk, if it is finished."""
    output = Path(job.output)
    try:
        # Written in the other order, so where there are heads, there are errors.
        heads = pq.read_metadata(output / HEADS / chunk.part)
    except FileNotFoundError:
        return None
    errors = pq.read_metadata(output / ERRORS / chunk.part).num_rows
    return Done(heads.num_rows, errors, *(int(heads.metadata.get(name, 0)) for name in DOUBTS))


def fit_chunk(job: Job, chunk: Chunk) -> Done:
    """Fit and write the heads of a chunk, unless that is done.

    Raises:
        ValueError: The chunk cannot be read.
    """
    return find_done(job, chunk) or _fit_chunk(job, chunk, _open(job.bundle))


@functools.lru_cache(maxsize=1)
def _open(bundle: str) -> OnnxRuntime:
    return OnnxRuntime(bundle)


def _fit_chunk(job: Job, chunk: Chunk, runtime: OnnxRuntime) -> Done:
    tasks_file = open_tasks(Path(chunk.file))
    ids = pa.field("task", tasks_file.id_type)
    float32 = pa.float32()
    head_schema = pa.schema(
        [
            ids,
            ("kernel", pa.binary()),
            ("bias", pa.list_(float32)),
            ("initial_loss", float32),
            ("final_loss", float32),
            ("rows_used", pa.int32()),
        ]
    )
    error_schema = pa.schema([ids, ("reason", pa.string())])
    output, doubts, done, failures = Path(job.output), np.zeros(len(DOUBTS), int), 0, 0
    with (
        _writing(output / HEADS / chunk.part, head_schema) as heads,
        _writing(output / ERRORS / chunk.part, error_schema) as errors,
    ):
        try:
            for tasks, refused in read_chunk(chunk, tasks_file, runtime.manifest):
                table, failed = _fit(tasks, runtime, job)
                if table.num_rows:
                    rose = pc.greater(table["final_loss"], table["initial_loss"])
                    incomplete = pc.less(table["classes_used"], pc.list_value_length(table["bias"]))
                    doubts += [pc.sum(rose).as_py(), pc.sum(incomplete).as_py()]
                    done += table.num_rows
                    heads.write_table(table.drop_columns("classes_used").cast(head_schema))
                for bad, reasons in (refused, failed):
                    failures += len(bad)
                    table = pa.table([bad, pa.array(reasons, pa.string())], error_schema)
                    errors.write_table(table)
        except (pa.ArrowInvalid, ValueError) as error:
            raise ValueError(f"{chunk.file}, group {chunk.start}: {error}") from error
        heads.add_key_value_metadata(dict(zip(DOUBTS, map(str, doubts), strict=True)))
    return Done(done, failures, *doubts.tolist())


@contextlib.contextmanager
def _writing(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Context manager with the writer of a Parquet file that appears when it is complete."""
    # Dictionaries or compression of floats cost time and save no space.
    options = {"use_dictionary": False, "compression": "none", "write_statistics": ["task"]}
    with replacing(path) as partial, pq.ParquetWriter(partial, schema, **options) as writer:
        yield writer


def _fit(tasks: Tasks, runtime: OnnxRuntime, job: Job) -> tuple[pa.Table, Errors]:
    """The heads of some tasks, in their order, and the tasks without a head."""
    if not len(tasks.ids):
        return pa.table({}), Errors(tasks.ids, [])
    features = tasks.inputs if tasks.source == "features" else _features(runtime, tasks.inputs)
    begins = np.cumsum(tasks.rows) - tasks.rows
    order = np.lexsort((tasks.rows, tasks.ways))  # similar tasks together, for little padding
    initial_head = functools.cache(runtime.initial_head)
    tiles: list[pa.RecordBatch] = []
    finite: list[np.ndarray] = []
    for tile in _tiles(tasks, order, features.shape[1]):
        x, y = _pad(features, tasks.labels, begins[tile], tasks.rows[tile])
        head = initial_head(int(tasks.ways[tile[0]]))
        with np.errstate(all="ignore"):  # values that are not finite are found below
            adapted = adapt_tasks(
                x, y, *head, job.learning_rate, job.steps, runtime.manifest.balanced
            )
            sums = np.einsum("tdn->t", adapted.kernel) + adapted.bias.sum(axis=1)
        finite.append(np.isfinite(sums))
        tiles.append(_to_arrow(adapted))
    table, good = pa.Table.from_batches(tiles), np.concatenate(finite)
    if (order[1:] < order[:-1]).any():
        back = np.argsort(order)
        table, good = table.take(pa.array(back)), good[back]
    table = table.add_column(0, "task", tasks.ids)
    if good.all():
        return table, Errors(tasks.ids[:0], [])
    reasons = [
        _why_not(tasks, slice(begin, begin + rows))
        for begin, rows in zip(begins[~good], tasks.rows[~good], strict=True)
    ]
    return table.filter(pa.array(good)), Errors(tasks.ids.filter(pa.array(~good)), reasons)


def _why_not(tasks: Tasks, rows: slice) -> str:
    """Why there is no head. A value that is not finite makes the whole head so."""
    inputs = tasks.inputs[rows][tasks.labels[rows] >= 0]
    if not np.isfinite(inputs).all():
        return f"{tasks.source} is not finite"
    return "adaptation diverged: the learning rate is too high for these features"


def _features(runtime: OnnxRuntime, images: np.ndarray) -> np.ndarray:
    starts = range(0, len(images), BATCH)
    batches = [runtime.features(images[start : start + BATCH]) for start in starts]
    return np.concatenate(batches)


def _tiles(tasks: Tasks, order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Groups of tasks with equally many classes, small enough to fit into memory."""
    start = 0
    while start < len(order):
        count = int(np.searchsorted(tasks.ways[order], tasks.ways[order[start]], "right")) - start
        count = min(count, TILE_TASKS)
        while count > 1:
            most = int(tasks.rows[order[start + count - 1]])
            # float32 Gram matrices [most, most] and features [most, size] of each task.
            if 4 * count * most * (most + size) <= TILE_BYTES:
                break
            count //= 2
        yield order[start : start + count]
        start += count


def _pad(
    features: np.ndarray, labels: np.ndarray, begins: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Support sets of one size, `[T, M, D]` and `[T, M]`; padding rows are zero, with label -1."""
    most = rows.max()
    if (rows == most).all() and (np.diff(begins) == most).all():
        block = slice(begins[0], begins[-1] + most)
        x = features[block].reshape(len(rows), most, -1)
        y = labels[block].reshape(len(rows), most)
    else:
        there = np.arange(most) < rows[:, np.newaxis]
        places = np.where(there, begins[:, np.newaxis] + np.arange(most), begins[:, np.newaxis])
        x, y = features[places], np.where(there, labels[places], -1)
    padding = y < 0
    return (np.where(padding[..., np.newaxis], np.float32(0), x) if padding.any() else x), y


def _to_arrow(adapted: Adaptations) -> pa.RecordBatch:
    tasks, ways = adapted.bias.shape
    kernel = np.ascontiguousarray(adapted.kernel, "<f4")
    ends = np.arange(tasks + 1, dtype=np.int32)
    kernels = pa.Array.from_buffers(
        pa.binary(), tasks, [None, pa.py_buffer(ends * kernel[0].nbytes), pa.py_buffer(kernel)]
    )
    biases = pa.ListArray.from_arrays(ends * ways, adapted.bias.ravel())
    numbers = adapted[2:]
    return pa.record_batch([kernels, biases, *map(pa.array, numbers)], Adaptations._fields)
