"""Tasks in Parquet: which columns, how they are read, and which of their rows cannot be learned.

One row a task:

    task      its id, of any type; it is handed on to the head
    labels    list of integers, M of them, 0..N-1; -1 marks a row of padding
    features  the M x D features of the support set, row after row; or instead
    images    the M images, as the bundle takes them (uint8 [H, W, C], for example)
    ways      optional integer: N; that of the bundle where there is no such column

`features` and `images` are binary (the values themselves, float32 little-endian or uint8: the
fastest to read), or a list of numbers, flat or with a list a row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anil_tf.export.manifest import Manifest

BATCH_TASKS = 2048
BATCH_BYTES = 2**25
# The matrix of inner products grows with the square of the rows.
MAX_ROWS = 4096
OUT_OF_RANGE = -2


class Chunk(NamedTuple):
    """A row group of a file: what one worker does at a time, and what a part of the output holds.

    `part` is the file name of that part, `tasks` how many tasks there are.
    """

    file: str
    row_group: int
    part: str
    tasks: int


class Tasks(NamedTuple):
    """Tasks that can be learned: T of them, with R support rows in all.

    Attributes:
        ids: Arrow array `[T]`.
        rows: How many rows each has, `[T]`.
        ways: How many classes each has, `[T]`.
        labels: int32 `[R]`.
        inputs: `[R, ...]`, features or images, one task's rows after the other's.
    """

    ids: pa.Array
    rows: np.ndarray
    ways: np.ndarray
    labels: np.ndarray
    inputs: np.ndarray


class Errors(NamedTuple):
    """Tasks that cannot be learned: their ids and, for each, why."""

    ids: pa.Array
    reasons: list[str]


def list_chunks(tasks: Path) -> list[Chunk]:
    """Every row group of a Parquet file, or of all `*.parquet` files in a folder, by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is no Parquet, or lacks a column.
    """
    files = sorted(tasks.glob("*.parquet")) if tasks.is_dir() else [tasks]
    if not files:
        raise FileNotFoundError(f"{tasks} holds no *.parquet file")
    chunks = []
    for number, file in enumerate(files):
        try:
            with pq.ParquetFile(file) as parquet:
                metadata, names = parquet.metadata, set(parquet.schema_arrow.names)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} is not a Parquet file: {error}") from error
        missing = sorted({"task", "labels"} - names)
        if missing or not names & {"features", "images"}:
            raise ValueError(
                f"{file} needs the columns task, labels, and features or images. "
                f"Received: {', '.join(sorted(names))}"
            )
        chunks += [
            Chunk(
                str(file), group, f"part-{number:05d}-{group:05d}.parquet",
                metadata.row_group(group).num_rows,
            )
            for group in range(metadata.num_row_groups)
        ]  # fmt: skip
    return chunks


def id_type(chunk: Chunk) -> pa.DataType:
    """The type of a chunk's task ids."""
    return pq.read_schema(chunk.file).field("task").type


def read_chunk(chunk: Chunk, manifest: Manifest) -> Iterator[tuple[Tasks, Errors]]:
    """The tasks of a chunk, some at a time, so that memory is bounded.

    Raises:
        ValueError: A column is of a type that it cannot be.
    """
    with pq.ParquetFile(chunk.file, memory_map=True) as parquet:
        names = parquet.schema_arrow.names
        source = "features" if "features" in names else "images"
        columns = ["task", "labels", source, *(["ways"] if "ways" in names else [])]
        group = parquet.metadata.row_group(chunk.row_group)
        head_bytes = 4 * manifest.feature_size * manifest.ways
        task_bytes = max(group.total_byte_size // max(group.num_rows, 1), head_bytes, 1)
        batch_tasks = min(max(BATCH_BYTES // task_bytes, 1), BATCH_TASKS)
        for batch in parquet.iter_batches(batch_tasks, [chunk.row_group], columns):
            yield _check(batch, source, manifest)


def _check(batch: pa.RecordBatch, source: str, manifest: Manifest) -> tuple[Tasks, Errors]:
    """Separates what can be learned from what cannot."""
    features = source == "features"
    shape = (manifest.feature_size,) if features else manifest.image_shape
    dtype = np.dtype("<f4" if features else manifest.image_dtype)
    width = int(np.prod(shape))

    ways = _ways(batch, manifest)
    labels, label_offsets = _flatten(batch["labels"])
    rows = np.diff(label_offsets)
    values, offsets = _flatten(batch[source])
    # Of binary columns these are bytes, of lists numbers.
    is_binary = pa.types.is_binary(batch[source].type) or pa.types.is_large_binary(
        batch[source].type
    )
    expected = rows * width * (dtype.itemsize if is_binary else 1)
    task_of_row = np.repeat(np.arange(len(rows)), rows)
    labels = labels[label_offsets[0] : label_offsets[-1]]
    beyond = (labels < -1) | (labels >= ways[task_of_row])
    counted = np.bincount(task_of_row[labels >= 0], minlength=len(rows))

    reasons = np.full(len(rows), "", object)

    def mark(bad: np.ndarray, reason: str) -> None:
        reasons[bad & (reasons == "")] = reason

    for name in ("task", "labels", source):
        mark(batch[name].is_null().to_numpy(zero_copy_only=False), f"{name} is null")
    most = manifest.ways if manifest.head_init == "per_class" else np.iinfo(np.int32).max
    mark((ways < 2) | (ways > most), f"ways is not in 2..{most}")
    mark(counted == 0, "no rows")
    mark(rows > MAX_ROWS, f"more than {MAX_ROWS} rows")
    mark(np.isin(np.arange(len(rows)), task_of_row[beyond]), "a label is out of range")
    mark(np.diff(offsets) != expected, f"{source} is not rows x {width} values")
    good = reasons == ""
    errors = Errors(batch["task"].filter(pa.array(~good)), list(reasons[~good]))
    if not good.all():
        batch = batch.filter(pa.array(good))
        labels, rows, ways = labels[good[task_of_row]], rows[good], ways[good]
        values, offsets = _flatten(batch[source])
    values = values[offsets[0] : offsets[-1]]
    values = values.view(dtype) if is_binary else _convert(values, dtype, source)
    tasks = Tasks(batch["task"], rows, ways, labels.astype(np.int32), values.reshape(-1, *shape))
    return _drop_not_finite(tasks, errors, source) if dtype.kind == "f" else (tasks, errors)


def _drop_not_finite(tasks: Tasks, errors: Errors, source: str) -> tuple[Tasks, Errors]:
    """Rows of padding may hold anything."""
    if np.isfinite(tasks.inputs).all():
        return tasks, errors
    finite = np.isfinite(tasks.inputs).all(axis=tuple(range(1, tasks.inputs.ndim)))
    task_of_row = np.repeat(np.arange(len(tasks.rows)), tasks.rows)
    good = ~np.isin(np.arange(len(tasks.rows)), task_of_row[~finite & (tasks.labels >= 0)])
    kept = good[task_of_row]
    bad_ids = tasks.ids.filter(pa.array(~good))
    return (
        Tasks(
            tasks.ids.filter(pa.array(good)), tasks.rows[good], tasks.ways[good],
            tasks.labels[kept], tasks.inputs[kept],
        ),
        Errors(
            pa.concat_arrays([errors.ids, bad_ids]),
            errors.reasons + [f"{source} is not finite"] * len(bad_ids),
        ),
    )  # fmt: skip


def _ways(batch: pa.RecordBatch, manifest: Manifest) -> np.ndarray:
    if "ways" not in batch.schema.names:
        return np.full(batch.num_rows, manifest.ways)
    return pc.fill_null(batch["ways"], manifest.ways).to_numpy(zero_copy_only=False)


def _flatten(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Values of lists in lists, or bytes, one after the other, and where each element begins."""
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        _, offsets, content = array.buffers()
        kind = np.int64 if pa.types.is_large_binary(array.type) else np.int32
        begins = np.frombuffer(offsets, kind)[array.offset : array.offset + len(array) + 1]
        return np.frombuffer(content or b"", np.uint8), begins
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        values, offsets = _flatten(array.values)
        return values, offsets[array.offsets.to_numpy()]
    if pa.types.is_fixed_size_list(array.type):
        values, offsets = _flatten(array.values)
        places = np.arange(array.offset, array.offset + len(array) + 1)
        return values, offsets[places * array.type.list_size]
    if pa.types.is_integer(array.type):
        array = pc.fill_null(array, OUT_OF_RANGE) if array.null_count else array
    elif not pa.types.is_floating(array.type):
        raise ValueError(f"a column must hold numbers or lists of them. Received: {array.type}")
    return array.to_numpy(zero_copy_only=False), np.arange(len(array) + 1)


def _convert(values: np.ndarray, dtype: np.dtype, source: str) -> np.ndarray:
    if dtype.kind != "f" and values.dtype.kind == "f":
        raise ValueError(f"{source} must be {dtype}. Received: {values.dtype}")
    return values.astype(dtype, copy=False)
