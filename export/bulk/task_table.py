"""Tasks in Parquet or TFRecord: which columns, and which of the tasks cannot be learned.

One row, or one `tf.train.Example`, a task:

    task      its id, of any type; it is handed on to the head
    labels    list of integers, M of them, 0..N-1; -1 marks a row of padding
    features  the M x D features of the support set, row after row; or instead
    images    the M images, as the bundle takes them (uint8 [H, W, C], for example)
    ways      optional integer: N; that of the bundle where there is no such column

`features` and `images` are binary (the values themselves, float32 little-endian or uint8: the
fastest to read), or a list of numbers, flat or with a list a row. Of TFRecord, see `task_records`.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anil_tf.export.bulk.task_files import TaskFile, list_files, open_tasks
from anil_tf.export.manifest import Manifest

BATCH_TASKS = 1024
BATCH_BYTES = 2**25
# The matrix of inner products grows with the square of the rows.
MAX_ROWS = 4096
OUT_OF_RANGE = -2


class Chunk(NamedTuple):
    """A group of tasks of a file: what one worker does at a time, and one part of the output.

    `start` is where the file has it, `part` the file name of that part, `tasks` how many there are.
    """

    file: str
    start: int
    part: str
    tasks: int


class Tasks(NamedTuple):
    """Tasks that can be learned: T of them, with R support rows in all.

    Attributes:
        ids: Arrow array `[T]`.
        rows: How many rows each has, `[T]`.
        ways: How many classes each has, `[T]`.
        labels: int32 `[R]`.
        inputs: `[R, ...]`, one task's rows after the other's.
        source: What these are, `"features"` or `"images"`.
    """

    ids: pa.Array
    rows: np.ndarray
    ways: np.ndarray
    labels: np.ndarray
    inputs: np.ndarray
    source: str


class Errors(NamedTuple):
    """Tasks that cannot be learned: their ids and, for each, why."""

    ids: pa.Array
    reasons: list[str]


def list_chunks(tasks: Path) -> list[Chunk]:
    """Every group of a file of tasks, or of all such files in a folder, by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is no file of tasks, or lacks a column.
    """
    chunks = []
    for number, file in enumerate(list_files(tasks)):
        opened = open_tasks(file)
        groups = opened.groups()
        if groups:
            _choose_columns(file, opened)
        chunks += [
            Chunk(str(file), start, f"part-{number:05d}-{group:05d}.parquet", count)
            for group, (start, count) in enumerate(groups)
        ]
    return chunks


def _choose_columns(file: Path, opened: TaskFile) -> tuple[str, list[str]]:
    """The column of features or images, and all that are read."""
    names = set(opened.names)
    if not names >= {"task", "labels"} or not names & {"features", "images"}:
        raise ValueError(
            f"{file} needs the columns task, labels, and features or images. "
            f"Received: {', '.join(sorted(names))}"
        )
    source = "features" if "features" in names else "images"
    return source, ["task", "labels", source, *(["ways"] if "ways" in names else [])]


def read_chunk(
    chunk: Chunk, opened: TaskFile, manifest: Manifest
) -> Iterator[tuple[Tasks, Errors]]:
    """The tasks of a chunk, some at a time, so that memory is bounded.

    Raises:
        ValueError: A column is of a type that it cannot be.
    """
    source, columns = _choose_columns(Path(chunk.file), opened)
    head_bytes = 4 * manifest.feature_size * manifest.ways
    task_bytes = max(opened.task_bytes(chunk.start), head_bytes, 1)
    size = min(max(BATCH_BYTES // task_bytes, 1), BATCH_TASKS)
    for batch in opened.batches(chunk.start, columns, size):
        yield _check(batch, source, manifest)


class _Columns(NamedTuple):
    """The columns of a batch of T tasks, flat.

    Attributes:
        ways: Number of classes of each task, `[T]`.
        rows: Number of rows of each task, `[T]`.
        labels: Labels of all rows, one task after another.
        sizes: Number of values of each task, `[T]`.
        values: Features or images of all rows: numbers, or the bytes of a binary column.
        dtype: Dtype of the features or images.
        shape: Shape of one row of them.
        is_binary: Whether `sizes` and `values` are of bytes.
    """

    ways: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    values: np.ndarray
    dtype: np.dtype
    shape: tuple[int, ...]
    is_binary: bool


def _check(batch: pa.RecordBatch, source: str, manifest: Manifest) -> tuple[Tasks, Errors]:
    """Separates what can be learned from what cannot."""
    columns = _read_columns(batch, source, manifest)
    reasons = _find_faults(batch, source, columns, manifest)
    good = reasons == ""
    errors = Errors(batch["task"].filter(pa.array(~good)), list(reasons[~good]))
    if not good.all():
        batch = batch.filter(pa.array(good))
        columns = _read_columns(batch, source, manifest)
    inputs = _convert(columns, source).reshape(-1, *columns.shape)
    labels = columns.labels.astype(np.int32, copy=False)
    return Tasks(batch["task"], columns.rows, columns.ways, labels, inputs, source), errors


def _read_columns(batch: pa.RecordBatch, source: str, manifest: Manifest) -> _Columns:
    ways = np.full(batch.num_rows, manifest.ways)
    if "ways" in batch.schema.names:
        ways = pc.fill_null(batch["ways"], manifest.ways).to_numpy(zero_copy_only=False)
    labels, rows = _flatten(batch["labels"])
    values, sizes = _flatten(batch[source])
    features = source == "features"
    return _Columns(
        ways,
        rows,
        labels,
        sizes,
        values,
        dtype=np.dtype("<f4" if features else manifest.image_dtype),
        shape=(manifest.feature_size,) if features else tuple(manifest.image_shape),
        is_binary=_is_binary(batch[source].type),
    )


def _find_faults(
    batch: pa.RecordBatch, source: str, columns: _Columns, manifest: Manifest
) -> np.ndarray:
    """Why each task cannot be learned, `[T]`; empty text where it can."""
    ways, rows, labels, sizes, values, dtype, shape, is_binary = columns
    reasons = np.full(len(rows), "", object)

    def mark(bad: np.ndarray, reason: str) -> None:
        reasons[bad & (reasons == "")] = reason

    for name in ("task", "labels", source):
        mark(batch[name].is_null().to_numpy(zero_copy_only=False), f"{name} is null")
    most = manifest.most_ways
    mark((ways < 2) | (ways > most), f"ways is not in 2..{most}")
    mark(~_any(labels >= 0, rows), "no rows")
    mark(rows > MAX_ROWS, f"more than {MAX_ROWS} rows")
    mark(_any((labels < -1) | (labels >= np.repeat(ways, rows)), rows), "a label is out of range")
    width = math.prod(shape)
    expected = rows * width * (dtype.itemsize if is_binary else 1)
    mark(sizes != expected, f"{source} is not rows x {width} values")
    if dtype == np.uint8 and values.dtype.kind in "iu" and values.dtype != dtype:
        mark(_any((values < 0) | (values > 255), sizes), "a pixel is not in 0..255")
    return reasons


def _any(flags: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whether any value of each task is flagged, `[T]`, of flags one task after another."""
    task = np.repeat(np.arange(len(sizes)), sizes)
    return np.bincount(task[flags], minlength=len(sizes)) > 0


def _convert(columns: _Columns, source: str) -> np.ndarray:
    values, dtype = columns.values, columns.dtype
    if columns.is_binary:
        return values.view(dtype)
    if dtype.kind != "f" and values.dtype.kind == "f":
        raise ValueError(f"{source} must be {dtype}. Received: {values.dtype}")
    return values.astype(dtype, copy=False)


def _flatten(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The values of lists, of lists in lists, or the bytes of binary elements, all in one array.

    Returns:
        The values, and their number in each element, `[T]`. An element that is null has none.
    """
    if _is_binary(array.type):
        return _to_bytes(array), _to_sizes(pc.binary_length(array))
    if not _is_list(array.type):
        return _to_numbers(array), np.ones(len(array), np.int64)
    sizes, inner = _to_sizes(pc.list_value_length(array)), pc.list_flatten(array)
    values, inner_sizes = _flatten(inner)
    if _is_list(inner.type):
        ends, total = np.cumsum(sizes), np.append(0, np.cumsum(inner_sizes))
        sizes = total[ends] - total[ends - sizes]
    return values, sizes


def _to_sizes(lengths: pa.Array) -> np.ndarray:
    return pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _to_bytes(array: pa.Array) -> np.ndarray:
    if not len(array):
        return np.empty(0, np.uint8)
    array = array.drop_null().cast(pa.large_binary())
    _, offsets, content = array.buffers()
    begins = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(content or b"", np.uint8)[begins[0] : begins[-1]]


def _to_numbers(array: pa.Array) -> np.ndarray:
    if pa.types.is_integer(array.type):
        if array.null_count:
            array = pc.fill_null(array.cast(pa.int64()), OUT_OF_RANGE)
    elif not pa.types.is_floating(array.type):
        raise ValueError(f"a column must hold numbers or lists of them. Received: {array.type}")
    return array.to_numpy(zero_copy_only=False)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
