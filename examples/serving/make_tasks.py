"""Write tasks for `anil adapt-many`: random features here, your users' examples in your program.

python make_tasks.py BUNDLE tasks.parquet --tasks 100000
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anil_tf.export import Manifest

GROUP = 8192  # tasks per row group, the unit of work

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("labels", pa.list_(pa.int32())),
        ("features", pa.binary()),  # float32, row by row
    ]
)


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=25)
    arguments = parser.parse_args()

    manifest = Manifest.model_validate_json((arguments.bundle / "manifest.json").read_bytes())
    rng = np.random.default_rng(0)
    labels = (np.arange(arguments.rows, dtype=np.int32) % manifest.ways).tolist()
    shape = (arguments.rows, manifest.feature_size)
    with pq.ParquetWriter(
        arguments.output, SCHEMA, compression="none", use_dictionary=["labels"]
    ) as writer:
        for start in range(0, arguments.tasks, GROUP):
            numbers = range(start, min(start + GROUP, arguments.tasks))
            features = rng.standard_normal((len(numbers), *shape), np.float32) / shape[1] ** 0.5
            columns = {
                "task": [f"user-{number}" for number in numbers],
                "labels": [labels] * len(numbers),
                "features": [one.tobytes() for one in features],
            }
            writer.write_table(pa.table(columns, SCHEMA))


if __name__ == "__main__":
    main()
