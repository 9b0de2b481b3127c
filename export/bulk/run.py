"""A head for each of very many tasks: what `anil adapt-many` does.

The input is cut into chunks, the row groups of its Parquet files or so many of its TFRecords. A
worker reads a chunk, fits the heads of its tasks in the Gram form, many at a time, and writes one
part of the output, which appears under its name when it is whole. So a part that exists is done: a
run that was broken off goes on where it stopped, and a worker that is killed loses no finished part
and repeats none.

Output: `heads/part-*.parquet` with the columns

    task          as given
    kernel        binary: float32 little-endian [D, N]
    bias          list of float32, N of them
    initial_loss  float32: mean cross-entropy of the support set before adaptation
    final_loss    float32: and after it
    rows_used     int32

and `errors/part-*.parquet` (task, reason) for the tasks that cannot be learned; `run.json` keeps
the settings. Either folder is read by `pyarrow.parquet.read_table(folder)`.
"""

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anil_tf.export.bulk.gram import Adaptations, adapt_tasks
from anil_tf.export.bulk.task_files import open_tasks
from anil_tf.export.bulk.task_table import Chunk, Errors, Tasks, list_chunks, read_chunk
from anil_tf.export.head import Head
from anil_tf.export.manifest import Manifest
from anil_tf.export.runtime.onnx import OnnxRuntime
from anil_tf.support.json_files import write_json

TILE_TASKS = 256  # of so many the matrices stay in a core's cache
TILE_BYTES = 2**27
IMAGES = 64  # a call of the backbone
HEADS, ERRORS, SETTINGS = "heads", "errors", "run.json"
DOUBTS = (b"rose", b"incomplete")  # counts in a file of heads, as `Done` has them


class Job(NamedTuple):
    """What a worker needs to know; sent to other processes and machines."""

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


def prepare(
    bundle: Path, tasks: Path, output: Path, learning_rate: float | None, steps: int | None
) -> tuple[Job, list[Chunk]]:
    """Begin a run, or make ready to go on with one.

    Returns:
        The job, and all of its chunks, finished ones too.

    Raises:
        FileNotFoundError: The bundle or the tasks are not there.
        ValueError: They are not what they should be, or `output` holds a run of other tasks, or
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
    clear_unfinished(output)
    write_json(path, settings)
    return job, chunks


def clear_unfinished(output: Path) -> None:
    """Remove what workers left that were killed while they wrote; not while others write."""
    for folder in (HEADS, ERRORS):
        for unfinished in (output / folder).glob(".part-*.parquet.*.tmp"):
            unfinished.unlink()


def read_heads(output: str | Path, manifest: Manifest) -> Iterator[tuple[Any, Head]]:
    """Every task's id and head, for a store; the classes are named `"0"`, `"1"` and so on.

    Args:
        output: Of a run.
        manifest: Of the bundle that it ran with.
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


def find_done(job: Job, chunk: Chunk) -> Done | None:
    """What a chunk came to, if it is finished."""
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
    output, doubts = Path(job.output), np.zeros(len(DOUBTS), int)
    with (
        _Part(output / HEADS / chunk.part, head_schema) as heads,
        _Part(output / ERRORS / chunk.part, error_schema) as errors,
    ):
        try:
            for tasks, refused in read_chunk(chunk, tasks_file, runtime.manifest):
                table, failed = _fit(tasks, runtime, job)
                if table.num_rows:
                    rose = pc.greater(table["final_loss"], table["initial_loss"])
                    incomplete = pc.less(table["classes_used"], pc.list_value_length(table["bias"]))
                    doubts += [pc.sum(rose).as_py(), pc.sum(incomplete).as_py()]
                    heads.write(table.drop_columns("classes_used").cast(head_schema))
                for bad, reasons in (refused, failed):
                    errors.write(pa.table([bad, pa.array(reasons, pa.string())], error_schema))
        except (pa.ArrowInvalid, ValueError) as error:
            raise ValueError(f"{chunk.file}, group {chunk.start}: {error}") from error
        heads.describe(dict(zip(DOUBTS, map(str, doubts), strict=True)))
    return Done(heads.rows, errors.rows, *doubts.tolist())


class _Part:
    """A Parquet file that appears under its name when it is whole and on the disk."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.rows = 0
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file = self._temporary.open("wb")
        # A dictionary of floats, or compressing them, costs much time and saves no space.
        self._writer = pq.ParquetWriter(
            self._file, schema, use_dictionary=False, compression="none", write_statistics=["task"]
        )

    def __enter__(self) -> "_Part":
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        self.rows += table.num_rows
        self._writer.write_table(table)

    def describe(self, metadata: dict[bytes, str]) -> None:
        """Add to the metadata of the file."""
        self._writer.add_key_value_metadata(metadata)

    def __exit__(self, failed: object, *_: object) -> None:
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if failed:
            self._temporary.unlink()
        else:
            os.replace(self._temporary, self._path)


def _fit(tasks: Tasks, runtime: OnnxRuntime, job: Job) -> tuple[pa.Table, Errors]:
    """The heads of some tasks, in their order, and those that no head could be fitted to."""
    if not len(tasks.ids):
        return pa.table({}), Errors(tasks.ids, [])
    features = tasks.inputs if tasks.source == "features" else _features(runtime, tasks.inputs)
    begins = np.cumsum(tasks.rows) - tasks.rows
    order = np.lexsort((tasks.rows, tasks.ways))  # alike beside alike, for little padding
    initial_head = functools.cache(runtime.initial_head)
    tiles: list[pa.RecordBatch] = []
    finite: list[np.ndarray] = []
    for tile in _tiles(tasks, order, features.shape[1]):
        x, y = _pad(features, tasks.labels, begins[tile], tasks.rows[tile])
        head = initial_head(int(tasks.ways[tile[0]]))
        with np.errstate(all="ignore"):  # what is not finite is found right below
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
    """Why there is no head. What is not finite in a support set makes all of its head so."""
    inputs = tasks.inputs[rows][tasks.labels[rows] >= 0]
    if not np.isfinite(inputs).all():
        return f"{tasks.source} is not finite"
    return "adaptation diverged: the learning rate is too high for these features"


def _features(runtime: OnnxRuntime, images: np.ndarray) -> np.ndarray:
    starts = range(0, len(images), IMAGES)
    batches = [runtime.features(images[start : start + IMAGES]) for start in starts]
    return np.concatenate(batches)


def _tiles(tasks: Tasks, order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Tasks with as many classes each, few enough to fit into memory together."""
    start = 0
    while start < len(order):
        count = int(np.searchsorted(tasks.ways[order], tasks.ways[order[start]], "right")) - start
        count = min(count, TILE_TASKS)
        while count > 1:
            most = int(tasks.rows[order[start + count - 1]])
            if 4 * count * most * (most + size) <= TILE_BYTES:
                break
            count //= 2
        yield order[start : start + count]
        start += count


def _pad(
    features: np.ndarray, labels: np.ndarray, begins: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Support sets of one size, `[T, M, D]` and `[T, M]`; rows of padding zero, labelled -1."""
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
