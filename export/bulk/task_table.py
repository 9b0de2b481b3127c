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
    is_binary = _is_binary(batch[source].type)
    expected = rows * width * (dtype.itemsize if is_binary else 1)
    task_of_row = np.repeat(np.arange(len(rows)), rows)
    labels = labels[label_offsets[0] : label_offsets[-1]]
    beyond = np.zeros(len(rows), bool)
    beyond[task_of_row[(labels < -1) | (labels >= ways[task_of_row])]] = True
    padding = np.bincount(task_of_row[labels < 0], minlength=len(rows))

    reasons = np.full(len(rows), "", object)

    def mark(bad: np.ndarray, reason: str) -> None:
        if bad.any():
            reasons[bad & (reasons == "")] = reason

    for name in ("task", "labels", source):
        mark(batch[name].is_null().to_numpy(zero_copy_only=False), f"{name} is null")
    most = manifest.most_ways
    mark((ways < 2) | (ways > most), f"ways is not in 2..{most}")
    mark(rows == padding, "no rows")
    mark(rows > MAX_ROWS, f"more than {MAX_ROWS} rows")
    mark(beyond, "a label is out of range")
    mark(np.diff(offsets) != expected, f"{source} is not rows x {width} values")
    if dtype.kind == "u" and values.dtype != dtype and values.dtype.kind != "f":
        wrong = np.append(0, np.cumsum((values < 0) | (values > np.iinfo(dtype).max)))
        mark(wrong[offsets[1:]] > wrong[offsets[:-1]], "a pixel is not in 0..255")
    good = reasons == ""
    errors = Errors(batch["task"].filter(pa.array(~good)), list(reasons[~good]))
    if not good.all():
        batch = batch.filter(pa.array(good))
        labels, rows, ways = labels[good[task_of_row]], rows[good], ways[good]
        values, offsets = _flatten(batch[source])
    values = values[offsets[0] : offsets[-1]]
    values = values.view(dtype) if is_binary else _convert(values, dtype, source)
    inputs = values.reshape(-1, *shape)
    return Tasks(
        batch["task"], rows, ways, labels.astype(np.int32, copy=False), inputs, source
    ), errors


def _ways(batch: pa.RecordBatch, manifest: Manifest) -> np.ndarray:
    if "ways" not in batch.schema.names:
        return np.full(batch.num_rows, manifest.ways)
    return pc.fill_null(batch["ways"], manifest.ways).to_numpy(zero_copy_only=False)


def _is_binary(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    )


def _flatten(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Values of lists in lists, or bytes, one after the other, and where each element begins."""
    if pa.types.is_fixed_size_binary(array.type):
        places = np.arange(array.offset, array.offset + len(array) + 1)
        return np.frombuffer(array.buffers()[1], np.uint8), places * array.type.byte_width
    if _is_binary(array.type):
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
