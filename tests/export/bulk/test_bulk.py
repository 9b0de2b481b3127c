"""Heads in bulk: the same as one by one, whatever the layout, and whoever dies meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from anil_tf.cli import main
from anil_tf.export.manifest import read_manifest
from anil_tf.export.runtime import open_bundle

pa = pytest.importorskip("pyarrow")
import pyarrow.compute as pc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from anil_tf.export import adapt_many  # noqa: E402
from anil_tf.export.bulk import fit  # noqa: E402
from anil_tf.export.bulk import run as bulk  # noqa: E402
from anil_tf.export.bulk.task_table import Tasks  # noqa: E402
from anil_tf.support import files  # noqa: E402

SIZE = 64


@pytest.fixture(scope="module")
def runtime(bundle):
    return open_bundle(bundle)


def anil(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def make_tasks(count, seed=0, rows=None, ways=5):
    """A list of `(id, features, labels)`, of different sizes unless `rows` is given."""
    rng = np.random.default_rng(seed)
    tasks = []
    for index in range(count):
        size = rows or int(rng.integers(1, 12))
        features = rng.normal(0, 1 / 8, (size, SIZE)).astype(np.float32)
        tasks.append((f"user {index}", features, rng.integers(0, ways, size).astype(np.int32)))
    return tasks


LAYOUTS = {
    "binary": (pa.binary(), lambda x: x.tobytes()),
    "flat": (pa.list_(pa.float32()), lambda x: x.ravel().tolist()),
    "doubles": (pa.large_list(pa.float64()), lambda x: x.ravel().tolist()),
    "nested": (pa.list_(pa.list_(pa.float32())), lambda x: x.tolist()),
    "fixed": (pa.list_(pa.list_(pa.float32(), SIZE)), lambda x: x.tolist()),
}


def write_tasks(path, tasks, layout="binary", group=16, **columns):
    kind, encode = LAYOUTS[layout]
    table = pa.table(
        {
            "task": [task for task, _, _ in tasks],
            "features": pa.array([encode(features) for _, features, _ in tasks], kind),
            "labels": pa.array([labels.tolist() for *_, labels in tasks], pa.list_(pa.int32())),
            **columns,
        }
    )
    pq.write_table(table, path, row_group_size=group)
    return path


def run(bundle, tasks, output, *options):
    result = anil("adapt-many", bundle, "--tasks", tasks, "--output", output, *options)
    assert result.exit_code == 0, result.output
    return pq.read_table(output / "heads"), pq.read_table(output / "errors")


def fit_here(bundle, tasks, output, steps=None):
    """The same in this process, without workers to wait for."""
    job, chunks = bulk.prepare(bundle, tasks, output, None, steps)
    for chunk in chunks:
        fit.fit_chunk(job, chunk)
    return pq.read_table(output / "heads"), pq.read_table(output / "errors")


def assert_same_as_one_by_one(heads, tasks, runtime, ways=5, steps=None):
    assert heads["task"].to_pylist() == [task for task, _, _ in tasks]
    steps = runtime.inner_steps if steps is None else steps
    for row, (_, features, labels) in zip(heads.to_pylist(), tasks, strict=True):
        expected = runtime.adapt(
            features, labels, *runtime.initial_head(ways), runtime.inner_lr, steps
        )
        kernel = np.frombuffer(row["kernel"], "<f4").reshape(SIZE, ways)
        np.testing.assert_allclose(kernel, expected.kernel, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(row["bias"], expected.bias, rtol=1e-4, atol=1e-6)
        assert row["initial_loss"] == pytest.approx(expected.initial_loss, rel=1e-5)
        assert row["final_loss"] == pytest.approx(expected.final_loss, rel=1e-5)
        assert row["rows_used"] == expected.rows_used


def test_features_may_be_bytes_of_one_length(bundle, runtime, tmp_path):
    tasks = make_tasks(40, rows=5)
    table = pq.read_table(write_tasks(tmp_path / "tasks.parquet", tasks))
    fixed = table["features"].cast(pa.binary(5 * SIZE * 4))
    path = tmp_path / "fixed.parquet"
    pq.write_table(table.set_column(1, "features", fixed), path, row_group_size=16)
    heads, _ = fit_here(bundle, path, tmp_path / "out")
    assert_same_as_one_by_one(heads, tasks, runtime)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_heads_are_those_of_one_by_one_in_every_layout(bundle, runtime, tmp_path, layout):
    tasks = make_tasks(40)
    path = write_tasks(tmp_path / "tasks.parquet", tasks, layout)
    heads, errors = fit_here(bundle, path, tmp_path / "out", steps=7)
    assert not errors.num_rows
    assert_same_as_one_by_one(heads, tasks, runtime, steps=7)


def test_more_tasks_of_one_size_than_fit_a_tile(bundle, runtime, tmp_path):
    tasks = make_tasks(300, rows=10)
    path = write_tasks(tmp_path / "tasks.parquet", tasks, group=1000)
    heads, _ = fit_here(bundle, path, tmp_path / "out")
    assert_same_as_one_by_one(heads, tasks, runtime)


def test_rows_of_padding_are_left_out_whatever_they_hold(bundle, runtime, tmp_path):
    tasks = make_tasks(10)
    padded = [
        (task, np.pad(x, [(0, 3), (0, 0)], constant_values=np.nan), np.append(y, [-1] * 3))
        for task, x, y in tasks
    ]
    path = write_tasks(tmp_path / "tasks.parquet", padded)
    heads, errors = fit_here(bundle, path, tmp_path / "out")
    assert not errors.num_rows
    assert_same_as_one_by_one(heads, tasks, runtime)


def test_tasks_with_classes_of_their_own_number(bundle, runtime, tmp_path):
    ways = np.random.default_rng(1).integers(2, 9, 40)
    tasks = [make_tasks(1, seed, ways=int(n))[0] for seed, n in enumerate(ways)]
    tasks = [(f"user {i}", x, y) for i, (_, x, y) in enumerate(tasks)]
    path = write_tasks(tmp_path / "tasks.parquet", tasks, ways=pa.array(ways))
    heads, _ = fit_here(bundle, path, tmp_path / "out")
    assert heads["task"].to_pylist() == [task for task, _, _ in tasks]
    for index, n in enumerate(ways):
        assert_same_as_one_by_one(heads[index : index + 1], [tasks[index]], runtime, int(n))


def test_images_go_through_the_backbone(bundle, runtime, images, tmp_path):
    labels = [[0, 1, 2, 3], [0, 1, 0], [4, 4, 2, 1, 0]]
    parts = [images[:4], images[4:7], images[7:]]
    table = {"task": [7, 8, 9], "labels": labels, "images": [part.tobytes() for part in parts]}
    pq.write_table(pa.table(table), tmp_path / "tasks.parquet")
    heads, _ = fit_here(bundle, tmp_path / "tasks.parquet", tmp_path / "out")
    tasks = [
        (task, runtime.features(part), np.array(one))
        for task, part, one in zip([7, 8, 9], parts, labels, strict=True)
    ]
    assert_same_as_one_by_one(heads, tasks, runtime)


def test_a_task_with_pixels_that_are_no_bytes_is_named(bundle, images, tmp_path):
    numbers = images[:6].reshape(3, -1).astype(int).tolist()
    numbers[1][5] = 300
    table = {"task": [7, 8, 9], "labels": [[0, 1]] * 3, "images": numbers}
    pq.write_table(pa.table(table), tmp_path / "tasks.parquet")
    heads, errors = fit_here(bundle, tmp_path / "tasks.parquet", tmp_path / "out")
    assert heads["task"].to_pylist() == [7, 9]
    assert errors["reason"].to_pylist() == ["a pixel is not in 0..255"]


def test_data_with_one_axis_go_through_the_backbone_too(runtime, images):
    flat = types.SimpleNamespace(
        features=lambda rows: runtime.features(rows.reshape(-1, 28, 28, 1)),
        initial_head=runtime.initial_head,
        manifest=runtime.manifest,
    )
    labels = np.arange(12, dtype=np.int32) % 3
    tasks = Tasks(
        pa.array([1]), np.array([12]), np.array([3]), labels, images.reshape(12, -1), "images"
    )
    heads, _ = fit._fit(tasks, flat, fit.Job("", "", runtime.inner_lr, runtime.inner_steps))
    assert_same_as_one_by_one(heads, [(1, runtime.features(images), labels)], runtime, 3)


def test_a_task_that_cannot_be_learned_is_named_and_the_others_go_on(bundle, runtime, tmp_path):
    tasks = make_tasks(14, rows=6)

    def change(index, features=None, labels=None):
        task, x, y = tasks[index]
        tasks[index] = task, x if features is None else features, y if labels is None else labels

    spoiled = tasks[1][1].copy()
    spoiled[2, 3] = np.nan
    infinite = tasks[9][1].copy()
    infinite[0, 0] = np.inf
    change(1, features=spoiled)
    change(3, features=np.zeros((0, SIZE), np.float32), labels=np.zeros(0, np.int32))
    change(4, labels=np.array([0, 1, 2, 3, 4, 5], np.int32))
    change(5, labels=np.array([0, 1, 2, 3, 4, -2], np.int32))
    change(6, labels=np.full(6, -1, np.int32))
    change(8, features=tasks[8][1][:5])
    change(9, features=infinite)
    change(11, features=np.full((6, SIZE), 1e30, np.float32))
    path = write_tasks(tmp_path / "tasks.parquet", tasks, group=7)
    heads, errors = fit_here(bundle, path, tmp_path / "out")
    reasons = dict(zip(errors["task"].to_pylist(), errors["reason"].to_pylist(), strict=True))
    assert reasons == {
        "user 1": "features is not finite",
        "user 3": "no rows",
        "user 4": "a label is out of range",
        "user 5": "a label is out of range",
        "user 6": "no rows",
        "user 8": f"features is not rows x {SIZE} values",
        "user 9": "features is not finite",
        "user 11": "adaptation diverged: the learning rate is too high for these features",
    }
    good = [task for task in tasks if task[0] not in reasons]
    assert_same_as_one_by_one(heads, good, runtime)


def test_what_is_missing_is_named_too(bundle, tmp_path):
    tasks = make_tasks(3, rows=2)
    table = pq.read_table(write_tasks(tmp_path / "tasks.parquet", tasks)).to_pylist()
    table[0]["labels"], table[1]["features"] = None, None
    table[2]["labels"] = [0, None]
    schema = pq.read_schema(tmp_path / "tasks.parquet")
    pq.write_table(pa.Table.from_pylist(table, schema), tmp_path / "tasks.parquet")
    heads, errors = fit_here(bundle, tmp_path / "tasks.parquet", tmp_path / "out")
    assert heads.num_rows == 0
    assert errors["reason"].to_pylist() == [
        "labels is null", "features is null", "a label is out of range",
    ]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_missing_between_others_does_not_move_them(bundle, runtime, tmp_path, layout):
    tasks = make_tasks(9)
    path = write_tasks(tmp_path / "tasks.parquet", tasks, layout)
    table, schema = pq.read_table(path).to_pylist(), pq.read_schema(path)
    table[2]["labels"], table[5]["features"] = None, None
    pq.write_table(pa.Table.from_pylist(table, schema), path)
    heads, errors = fit_here(bundle, path, tmp_path / "out")
    assert errors["reason"].to_pylist() == ["labels is null", "features is null"]
    good = [task for index, task in enumerate(tasks) if index not in (2, 5)]
    assert_same_as_one_by_one(heads, good, runtime)


@pytest.mark.parametrize("pixel", [-1, 256, None])
def test_a_number_that_is_no_pixel_is_refused_and_the_other_tasks_are_not(
    bundle, images, tmp_path, pixel
):
    numbers = [images[:2].ravel().tolist(), images[2:4].ravel().tolist()]
    numbers[0][5] = pixel
    table = pa.table({"task": [1, 2], "labels": [[0, 1], [1, 0]], "images": numbers})
    pq.write_table(table, tmp_path / "tasks.parquet")
    heads, errors = fit_here(bundle, tmp_path / "tasks.parquet", tmp_path / "out")
    assert errors.to_pylist() == [{"task": 1, "reason": "a pixel is not in 0..255"}]
    assert heads["task"].to_pylist() == [2]


def test_heads_that_may_be_wrong_are_counted_those_of_before_too(bundle, tmp_path):
    tasks, output = make_tasks(40), tmp_path / "out"
    lost = [labels for *_, labels in tasks if len({*labels} & {*range(5)}) < 5]
    path = write_tasks(tmp_path / "tasks.parquet", tasks)
    options = ("--tasks", path, "--output", output, "--learning-rate", 1e4)
    for _ in range(2):  # the second time every chunk is there already
        result = anil("adapt-many", bundle, *options)
        heads = pq.read_table(output / "heads")
        rose = pc.sum(pc.greater(heads["final_loss"], heads["initial_loss"])).as_py()
        assert rose > 0
        assert f"Warning: the support loss of {rose} heads rose" in result.output
        counted = f"Warning: {len(lost)} heads have a class without a row"
        assert (counted in result.output) == bool(lost)


def test_a_per_class_head_has_a_largest_number_of_classes(per_class_bundle, tmp_path):
    tasks = make_tasks(2, rows=6, ways=3)
    path = write_tasks(tmp_path / "tasks.parquet", tasks, ways=pa.array([3, 6]))
    heads, errors = fit_here(per_class_bundle, path, tmp_path / "out")
    assert heads["task"].to_pylist() == ["user 0"]
    assert errors["reason"].to_pylist() == ["ways is not in 2..5"]


def test_a_run_over_several_files_goes_on_where_it_stopped(bundle, tmp_path):
    (tmp_path / "tasks").mkdir()
    for number in range(2):
        write_tasks(tmp_path / "tasks" / f"{number}.parquet", make_tasks(48, number))
    whole, _ = run(bundle, tmp_path / "tasks", tmp_path / "whole", "--workers", 1)
    assert whole.num_rows == 96

    output = tmp_path / "stopped"
    job, chunks = bulk.prepare(bundle, tmp_path / "tasks", output, None, None)
    for chunk in chunks[:3]:
        fit.fit_chunk(job, chunk)
    kept = {path: path.stat().st_mtime_ns for path in (output / "heads").iterdir()}
    half = output / "heads" / f".part-00001-00000.1{files._PART}.parquet"  # a killed worker's
    half.write_bytes(b"half a part")
    (output / "notes").mkdir()
    (output / "notes" / ".draft.tmp").write_text("the user's own")
    figures = tmp_path / "figures.json"
    continued, _ = run(bundle, tmp_path / "tasks", output, "--workers", 1, "--json", figures)
    assert continued.equals(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert [path.name for path in output.rglob(".*")] == [".draft.tmp"]
    written = json.loads(figures.read_text())
    assert (written["heads"], written["heads_from_before"], written["errors"]) == (96, 48, 0)


def test_a_job_is_run_from_python(bundle, tmp_path):
    path = write_tasks(tmp_path / "tasks.parquet", make_tasks(5))
    whole, _ = fit_here(bundle, path, tmp_path / "whole", steps=3)
    summary = adapt_many(bundle, path, tmp_path / "out", steps=3, workers=1)
    assert pq.read_table(tmp_path / "out" / "heads").equals(whole)
    assert (summary.heads, summary.heads_from_before, summary.errors) == (5, 0, 0)
    again = adapt_many(bundle, path, tmp_path / "out", steps=3, workers=1)
    assert (again.heads, again.heads_from_before) == (5, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runner": "abacus"}, "runner must be 'local' or 'ray'. Received: 'abacus'"),
        ({"workers": 0}, "workers must be at least 1. Received: workers=0"),
    ],
)
def test_a_job_that_nobody_can_run_is_refused_before_anything_is_written(
    bundle, tmp_path, options, message
):
    path = write_tasks(tmp_path / "tasks.parquet", make_tasks(1))
    with pytest.raises(ValueError, match=message):
        adapt_many(bundle, path, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_finished_chunk_is_not_done_again(bundle, tmp_path):
    path = write_tasks(tmp_path / "tasks.parquet", make_tasks(5))
    job, (chunk,) = bulk.prepare(bundle, path, tmp_path / "out", None, None)
    done = fit.fit_chunk(job, chunk)
    part = tmp_path / "out" / "heads" / chunk.part
    written = part.stat().st_ino, part.stat().st_mtime_ns
    assert fit.fit_chunk(job, chunk) == done and done[:2] == (5, 0)
    assert (part.stat().st_ino, part.stat().st_mtime_ns) == written


def children(process):
    """Worker processes: not the one that multiprocessing keeps to track resources."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not path.parent.exists():
        return []
    return [
        int(child)
        for child in path.read_text().split()
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
    ]


def wait_for(condition, process=None):
    deadline = time.monotonic() + 120
    while not (value := condition()):
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, "it ended too early"
        time.sleep(0.01)
    return value


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers by /proc")
@pytest.mark.parametrize("victims", ["workers", "all"])
def test_whoever_is_killed_the_output_is_the_same(bundle, tmp_path, victims):
    tasks = write_tasks(tmp_path / "tasks.parquet", make_tasks(6000, rows=8), group=20)
    whole, _ = fit_here(bundle, tasks, tmp_path / "whole")
    output = tmp_path / "disturbed"
    command = [sys.executable, "-m", "anil_tf", "adapt-many", bundle, "--tasks", tasks]
    command += ["--output", output, "--workers", "2"]
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE)
    heads = output / "heads"
    try:
        wait_for(lambda: heads.is_dir() and len(list(heads.glob("part-*"))) > 5, process)
        workers = wait_for(lambda: len(found := children(process)) == 2 and found, process)
        if victims == "all":
            process.kill()
        for worker in workers:
            with_no_complaint(os.kill, worker, signal.SIGKILL)
        process.communicate()
    finally:
        process.kill()
    if victims == "all":
        assert 5 < len(list(heads.glob("part-*"))) < 300
        run(bundle, tasks, output, "--workers", 2)
    else:
        assert process.returncode == 0
    assert pq.read_table(heads).equals(whole)
    assert not list(output.rglob(".*"))


def with_no_complaint(function, *arguments):
    try:
        function(*arguments)
    except ProcessLookupError:
        pass


@pytest.mark.slow
def test_a_ray_run_gives_the_same_heads(bundle, tmp_path):
    pytest.importorskip("ray")
    tasks = write_tasks(tmp_path / "tasks.parquet", make_tasks(60))
    whole, _ = fit_here(bundle, tasks, tmp_path / "whole")
    command = [sys.executable, "-m", "anil_tf", "adapt-many", bundle, "--tasks", tasks]
    command += ["--output", tmp_path / "ray", "--runner", "ray"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "ray" / "heads").equals(whole)


def assert_refused(result, fragment):
    assert result.exit_code == 2, result.output
    assert fragment in result.stderr.strip().splitlines()[-1]


def test_another_run_in_the_output_is_refused(bundle, tmp_path):
    path = write_tasks(tmp_path / "tasks.parquet", make_tasks(3))
    fit_here(bundle, path, tmp_path / "out")
    result = anil("adapt-many", bundle, "--tasks", path, "--output", tmp_path / "out", "--steps", 9)
    assert_refused(result, "was begun with other steps. Choose another output")


def test_an_output_of_something_else_is_refused(bundle, tmp_path):
    path = write_tasks(tmp_path / "tasks.parquet", make_tasks(3))
    result = anil("adapt-many", bundle, "--tasks", path, "--output", tmp_path)
    assert_refused(result, "is not empty, and no run of this command")


def test_tasks_that_are_no_tasks_are_refused(bundle, tmp_path):
    (tmp_path / "text.parquet").write_text("text")
    pq.write_table(pa.table({"task": [1], "x": [2]}), tmp_path / "other.parquet")
    strings = pa.table({"task": [1], "labels": [["a"]], "features": [["b"]]})
    pq.write_table(strings, tmp_path / "strings.parquet")
    (tmp_path / "empty").mkdir()
    for name, fragment in {
        "text.parquet": "is not a Parquet file",
        "other.parquet": "needs the columns task, labels, and features or images. Received: task,",
        "strings.parquet": "group 0: a column must hold numbers",
        "empty": "holds no *.parquet and no *.tfrecord file",
    }.items():
        result = anil(
            "adapt-many", bundle, "--tasks", tmp_path / name, "--output", tmp_path / f"{name}-out",
            "--workers", 1,
        )  # fmt: skip
        assert_refused(result, fragment)


def test_heads_go_into_a_store(bundle, tmp_path):
    from anil_tf.export.serving.head_store import FolderStore

    path = write_tasks(tmp_path / "tasks.parquet", make_tasks(5))
    heads, _ = fit_here(bundle, path, tmp_path / "out")
    manifest = read_manifest(bundle)
    store = FolderStore(tmp_path / "store", manifest)
    for task, head in bulk.read_heads(tmp_path / "out", manifest):
        store.put(task, head)
    for row in heads.to_pylist():
        head = store.get(row["task"])
        assert head.kernel.tobytes() == row["kernel"]
        assert head.names == ("0", "1", "2", "3", "4")


def test_the_command_needs_no_tensorflow(bundle, tmp_path):
    path = write_tasks(tmp_path / "tasks.parquet", make_tasks(3))
    program = (
        "import sys; from pathlib import Path; "
        "from anil_tf.export.bulk import fit, run as bulk, runners; "
        f"job, chunks = bulk.prepare(Path({str(bundle)!r}), Path({str(path)!r}), "
        f"Path({str(tmp_path / 'out')!r}), None, None); fit.fit_chunk(job, chunks[0]); "
        "print({'tensorflow', 'keras', 'ray'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr
