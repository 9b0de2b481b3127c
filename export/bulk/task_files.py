"""Files of tasks: their columns, and their tasks in groups.

A group is a row group of Parquet or a sequence of TFRecords, the unit of work.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq


class TaskFile(Protocol):
    """A file of tasks.

    Attributes:
        names: Names of its columns.
        id_type: Type of its column `task`.
    """

    names: list[str]
    id_type: pa.DataType

    def groups(self) -> list[tuple[int, int]]:
        """The start of each group of tasks, for `batches`, and its number of tasks."""

    def task_bytes(self, start: int) -> int:
        """The approximate size of a task in the group `start`."""

    def batches(self, start: int, columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
        """The tasks of the group `start`, `size` at a time."""


class ParquetTasks:
    """A `TaskFile` of Parquet.

    Raises:
        ValueError: It is no Parquet file.
    """

    def __init__(self, file: Path):
        self._file = file
        try:
            with pq.ParquetFile(file) as parquet:
                self._metadata, schema = parquet.metadata, parquet.schema_arrow
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} is not a Parquet file: {error}") from error
        self.names = schema.names
        self.id_type = schema.field("task").type if "task" in schema.names else pa.null()

    def groups(self) -> list[tuple[int, int]]:
        """The number of each row group, and its number of rows."""
        count = self._metadata.num_row_groups
        return [(group, self._metadata.row_group(group).num_rows) for group in range(count)]

    def task_bytes(self, start: int) -> int:
        """The size of a row in a row group, on average."""
        group = self._metadata.row_group(start)
        return group.total_byte_size // max(group.num_rows, 1)

    def batches(self, start: int, columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
        """The rows of a row group, `size` at a time."""
        with pq.ParquetFile(self._file, metadata=self._metadata, memory_map=True) as parquet:
            # Every core already has a worker.
            yield from parquet.iter_batches(size, [start], columns, use_threads=False)


def list_files(tasks: Path) -> list[Path]:
    """A file itself, or the Parquet and TFRecord files in a folder, by name.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not tasks.is_dir():
        return [tasks]
    files = sorted(file for file in tasks.iterdir() if _is_parquet(file) or _is_records(file))
    if not files:
        raise FileNotFoundError(f"{tasks} holds no *.parquet and no *.tfrecord file")
    return files


def open_tasks(file: Path) -> TaskFile:
    """Open a file of tasks, by its name: `.tfrecord` in it, or else Parquet.

    Raises:
        ImportError: TensorFlow is not installed, which TFRecords need.
        ValueError: It is no such file.
    """
    if not _is_records(file):
        return ParquetTasks(file)
    try:
        from anil_tf.export.bulk.task_records import RecordTasks
    except ModuleNotFoundError as error:
        raise ImportError("Tasks in TFRecord need: pip install tensorflow") from error
    return RecordTasks(file)


def _is_parquet(file: Path) -> bool:
    return file.suffix == ".parquet"


def _is_records(file: Path) -> bool:
    # Also one shard of several, `tasks.tfrecord-00000-of-00010`.
    return ".tfrecord" in file.name
