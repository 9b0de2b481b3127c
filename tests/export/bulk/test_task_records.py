"""Tasks in TFRecord: the same heads as from Parquet, and a clear end to what cannot be read."""

import numpy as np
import pytest
import tensorflow as tf

from anil_tf.export.bulk import task_records
from tests.export.bulk.test_bulk import (
    SIZE,
    anil,
    assert_refused,
    fit_here,
    make_tasks,
    run,
    write_tasks,
)


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, int) or np.asarray(value).dtype.kind == "i":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=np.ravel(value)))
    return tf.train.Feature(float_list=tf.train.FloatList(value=np.ravel(value)))


def write_records(path, rows):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            features = tf.train.Features(feature={key: feature(row[key]) for key in row})
            writer.write(tf.train.Example(features=features).SerializeToString())
    return path


def as_rows(tasks, in_bytes=True):
    return [
        {
            "task": task.encode(),
            "labels": labels,
            "features": features.tobytes() if in_bytes else features,
        }
        for task, features, labels in tasks
    ]


@pytest.mark.parametrize("in_bytes", [True, False])
def test_heads_are_those_of_parquet(bundle, tmp_path, monkeypatch, in_bytes):
    monkeypatch.setattr(task_records, "GROUP", 16)
    tasks = make_tasks(40)
    expected, _ = fit_here(bundle, write_tasks(tmp_path / "a.parquet", tasks), tmp_path / "a")
    path = write_records(tmp_path / "b.tfrecord", as_rows(tasks, in_bytes))
    heads, errors = fit_here(bundle, path, tmp_path / "b")
    assert not errors.num_rows
    assert len(list((tmp_path / "b" / "heads").iterdir())) == 3
    assert heads.equals(expected)


def test_the_command_reads_the_shards_of_a_folder(bundle, tmp_path):
    (tmp_path / "shards").mkdir()
    for shard, count in enumerate([3, 0, 2]):
        rows = [
            {**row, "task": 10 * shard + index}
            for index, row in enumerate(as_rows(make_tasks(count)))
        ]
        write_records(tmp_path / "shards" / f"tasks.tfrecord-0000{shard}-of-00003", rows)
    heads, _ = run(bundle, tmp_path / "shards", tmp_path / "out", "--workers", 1)
    assert heads["task"].to_pylist() == [0, 1, 2, 20, 21]


def test_images_and_ways_are_read_too(bundle, images, tmp_path):
    rows = [
        {"task": 0, "labels": [0, 1, 2], "images": images[:3].tobytes(), "ways": 3},
        {"task": 1, "labels": [1, 0], "images": images[3:5].tobytes(), "ways": 2},
    ]
    heads, _ = fit_here(bundle, write_records(tmp_path / "x.tfrecord", rows), tmp_path / "out")
    assert [len(bias) for bias in heads["bias"].to_pylist()] == [3, 2]


def test_a_task_that_cannot_be_learned_is_named_and_the_others_go_on(bundle, tmp_path):
    rows = as_rows(make_tasks(5, rows=4), in_bytes=False)
    del rows[0]["labels"], rows[1]["features"]
    rows[2]["labels"] = [0, 1, 2, 5]
    rows[3]["features"] = np.full(4 * SIZE, np.nan, np.float32)
    rows[0], rows[4] = rows[4], rows[0]  # the first says what kinds there are
    path = write_records(tmp_path / "x.tfrecord", rows)
    heads, errors = fit_here(bundle, path, tmp_path / "out")
    assert heads["task"].to_pylist() == ["user 4"]
    reasons = zip(errors["task"].to_pylist(), errors["reason"].to_pylist(), strict=True)
    assert dict(reasons) == {
        "user 0": "no rows",
        "user 1": f"features is not rows x {SIZE} values",
        "user 2": "a label is out of range",
        "user 3": "features is not finite",
    }


def test_what_is_no_file_of_tasks_is_refused(bundle, tmp_path):
    whole = write_records(tmp_path / "whole.tfrecord", as_rows(make_tasks(3))).read_bytes()
    files = {
        "cut.tfrecord": (whole[:-7], "is not a TFRecord file, or is cut short"),
        "text.tfrecord": (b"text" * 9, "is not a TFRecord file, or is cut short"),
        "other.tfrecord": (b"", "needs the columns task, labels, and features or images"),
    }
    for name, (content, fragment) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        if not content:
            write_records(path, [{"x": 1}])
        result = anil("adapt-many", bundle, "--tasks", path, "--output", tmp_path / f"{name}-out")
        assert_refused(result, fragment)


def test_an_example_unlike_the_first_is_refused(bundle, tmp_path):
    rows = as_rows(make_tasks(2))
    rows[1]["features"] = [1.0]
    path = write_records(tmp_path / "x.tfrecord", rows)
    with pytest.raises(ValueError, match=r"x\.tfrecord, group 0: an example is unlike the first"):
        fit_here(bundle, path, tmp_path / "out")
