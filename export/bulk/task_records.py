"""Tasks in TFRecord files, one `tf.train.Example` each. Only these need TensorFlow.

The columns of `task_table` by the same names: `task` is an int64 or text in UTF-8, `labels` and
`ways` are int64, `features` float32 or, read faster, bytes, `images` bytes. All examples of a file
have the same columns. TFRecord has no index, so the lengths of the records are read once, which
detects a truncated file. Checksums are not compared.
"""

import contextlib
import itertools
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import tensorflow as tf
from google.protobuf.message import DecodeError

GROUP = 8192  # tasks per group
BEFORE, AFTER = 12, 4  # bytes: a record's length and the checksum of it; the checksum of the record


class RecordTasks:
    """A `task_files.TaskFile` of TFRecords.

    Raises:
        ValueError: It is no TFRecord file, or not of examples.
    """

    def __init__(self, file: Path):
        self._file = file
        with self._open() as content:
            first = next((content[begin:end] for begin, end in self._walk(content, 0)), b"")
        try:
            features = tf.train.Example.FromString(first).features.feature
        except DecodeError as error:
            raise ValueError(f"{file} is not a TFRecord file of tf.train.Example") from error
        self._task_bytes = len(first)
        self._kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
        self.names = list(self._kinds)
        self.id_type = pa.int64() if self._kinds.get("task") == "int64_list" else pa.string()

    def groups(self) -> list[tuple[int, int]]:
        """The first byte of each group of tasks, and its number of tasks."""
        with self._open() as content:
            begins = [begin - BEFORE for begin, _ in self._walk(content, 0)]
        return [(begins[n], len(begins[n : n + GROUP])) for n in range(0, len(begins), GROUP)]

    def task_bytes(self, start: int) -> int:
        """The approximate size of a task."""
        return self._task_bytes

    def batches(self, start: int, columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
        """The tasks of the group that begins at a byte, `size` at a time.

        Raises:
            ValueError: An example differs from the first of the file.
        """
        specs = {name: self._spec(name) for name in columns}
        with self._open() as content:
            records = itertools.islice(self._walk(content, start), GROUP)
            while batch := [content[begin:end] for begin, end in itertools.islice(records, size)]:
                try:
                    parsed = tf.io.parse_example(batch, specs)
                except tf.errors.InvalidArgumentError as error:
                    raise ValueError(f"an example is unlike the first: {error.message}") from error
                yield pa.record_batch({name: _to_arrow(name, parsed[name]) for name in columns})

    @contextlib.contextmanager
    def _open(self) -> Iterator[mmap.mmap | bytes]:
        if not os.path.getsize(self._file):  # which cannot be mapped
            yield b""
            return
        with (
            self._file.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            yield content

    def _walk(self, content: mmap.mmap | bytes, offset: int) -> Iterator[tuple[int, int]]:
        """Start and end of each record, from a byte on."""
        size = len(content)
        while offset < size:
            begin = offset + BEFORE
            end = begin + struct.unpack_from("<Q", content, offset)[0] if begin <= size else begin
            offset = end + AFTER
            if offset > size:
                raise ValueError(f"{self._file} is not a TFRecord file, or is cut short")
            yield begin, end

    def _spec(self, name: str) -> Any:
        kinds = {"int64_list": tf.int64, "float_list": tf.float32, "bytes_list": tf.string}
        dtype = kinds[self._kinds[name]]
        if name == "task":
            return tf.io.FixedLenFeature([], dtype)
        if dtype == tf.string or name == "ways":  # if it is missing, the task is rejected
            return tf.io.FixedLenFeature([], dtype, "" if dtype == tf.string else 0)
        return tf.io.RaggedFeature(dtype)


def _to_arrow(name: str, value: tf.Tensor | tf.RaggedTensor) -> pa.Array:
    if isinstance(value, tf.RaggedTensor):
        return pa.ListArray.from_arrays(value.row_splits.numpy(), value.values.numpy())
    if value.dtype == tf.string:
        return pa.array(value.numpy(), pa.string() if name == "task" else pa.binary())
    return pa.array(value.numpy())
