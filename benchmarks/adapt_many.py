"""`anil adapt-many` compared with a loop of single `adapt` calls, and with workers killed.

    make bench-serving

Tasks have 25 rows, 64 features, 5 classes and 10 steps; a million of them take 6.5 GB of disk. The
time of the bulk run is that of the whole process with its files. It is compared with single calls
of ONNX Runtime and of a TensorFlow session, as a server makes them, with features in memory and
nothing written; and with a loop that processes one task at a time, from Parquet to Parquet.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from anil_tf.export.runtime import BundleRuntime, open_bundle
from anil_tf.support.json_files import write_json
from benchmarks.serving_bundle import make_bundle

ROWS, WAYS, STEPS = 25, 5, 10
GROUP, FILE = 8192, 100_000
LABELS = np.arange(ROWS, dtype=np.int32) % WAYS
SCHEMA = pa.schema(
    [("task", pa.int64()), ("labels", pa.list_(pa.int32())), ("features", pa.binary())]
)


def write_tasks(folder: Path, tasks: int, size: int) -> None:
    """Writes random tasks, `FILE` per file. Numbers repeat, which does not change the cost."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    features = rng.standard_normal((GROUP, ROWS * size), np.float32) / size**0.5
    contents = [row.tobytes() for row in features]
    starts = range(0, tasks, FILE)
    for start in tqdm(starts, "Writing tasks", disable=None):
        path = folder / f"{start:09d}.parquet"
        with pq.ParquetWriter(
            path, SCHEMA, compression="none", use_dictionary=["labels"], write_statistics=False
        ) as writer:
            stop = min(start + FILE, tasks)
            for first in range(start, stop, GROUP):
                numbers = range(first, min(first + GROUP, stop))
                columns = {
                    "task": list(numbers),
                    "labels": [LABELS] * len(numbers),
                    "features": [contents[number % GROUP] for number in numbers],
                }
                writer.write_table(pa.table(columns, SCHEMA))


def start_run(
    bundle: Path, tasks: Path, output: Path, json_file: Path, runner: str
) -> subprocess.Popen:
    """Starts `anil adapt-many`."""
    command = [sys.executable, "-m", "anil_tf", "adapt-many", bundle, "--tasks", tasks]
    command += ["--output", output, "--steps", STEPS, "--runner", runner, "--json", json_file]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen) -> None:
    """Waits for a run and checks that it succeeded."""
    if process.wait():
        raise SystemExit(f"anil adapt-many failed with status {process.returncode}")


def time_calls(runtime: BundleRuntime, features: np.ndarray, rounds: int = 5) -> float:
    """Heads per second of single calls: the best of several rounds over all tasks."""
    head = runtime.initial_head(WAYS)
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        for one in features:
            runtime.adapt(one, LABELS, *head, runtime.inner_lr, STEPS)
        rates.append(len(features) / (time.perf_counter() - start))
    return max(rates)


def time_loop(runtime: BundleRuntime, tasks: Path, output: Path, count: int = 5000) -> float:
    """Heads per second of a loop that reads tasks, adapts to one at a time, and writes heads."""
    start = time.perf_counter()
    head = runtime.initial_head(WAYS)
    rows = []
    with pq.ParquetFile(min(tasks.iterdir())) as parquet:
        for row in next(parquet.iter_batches(count)).to_pylist():
            features = np.frombuffer(row["features"], np.float32).reshape(len(row["labels"]), -1)
            labels = np.array(row["labels"], np.int32)
            kernel, bias, *numbers = runtime.adapt(features, labels, *head, runtime.inner_lr, STEPS)
            rows.append((row["task"], kernel.tobytes(), bias.tolist(), *numbers))
    names = ["task", "kernel", "bias", "initial_loss", "final_loss", "rows_used"]
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(columns), output, compression="none")
    return len(rows) / (time.perf_counter() - start)


def check(runtime: BundleRuntime, tasks: Path, output: Path) -> float:
    """The largest difference of some heads from those of single calls, relative to the largest."""
    given = pq.ParquetFile(sorted(tasks.iterdir())[0]).read_row_group(0).slice(0, 200)
    part = sorted((output / "heads").iterdir())[0]
    heads = pq.read_table(part).slice(0, 200)
    head = runtime.initial_head(WAYS)
    differences = []
    for task, row in zip(given.to_pylist(), heads.to_pylist(), strict=True):
        features = np.frombuffer(task["features"], np.float32).reshape(ROWS, -1)
        adapted = runtime.adapt(features, LABELS, *head, runtime.inner_lr, STEPS)
        kernel = np.frombuffer(row["kernel"], np.float32).reshape(adapted.kernel.shape)
        scale = np.abs(adapted.kernel).max()
        differences.append(float(np.abs(kernel - adapted.kernel).max() / scale))
    return max(differences)


def kill_two(process: subprocess.Popen, heads: Path) -> int:
    """Kills two workers during a run, one after the other. Returns the number killed."""
    killed = 0
    while killed < 2 and process.poll() is None:
        time.sleep(0.05)
        if len(list(heads.glob("part-*"))) <= 2 * killed:
            continue
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [
            int(child)
            for child in children
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
        ]
        if workers:
            os.kill(workers[0], signal.SIGKILL)
            killed += 1
    return killed


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte by byte."""
    contents = [
        {file.name: file.read_bytes() for file in folder.iterdir()} for folder in (one, other)
    ]
    return contents[0] == contents[1]


@click.command()
@click.option("--tasks", default=1_000_000, show_default=True, help="Number of tasks.")
@click.option("--runner", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder in which bundle and tasks are kept and reused; temporary by default.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the results.")
def main(tasks: int, runner: str, folder: Path | None, json_file: Path | None) -> None:
    """Time both, compare their heads, then kill workers and compare the outputs."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        kept, scratch = folder or Path(temporary), Path(temporary)
        bundle, tables = kept / "bundle", kept / f"tasks-{tasks}"
        if not bundle.exists():
            make_bundle(kept)
        runtime = open_bundle(bundle)
        size = runtime.manifest.feature_size
        if not tables.exists():
            write_tasks(tables, tasks, size)

        start = time.perf_counter()
        figures_file = scratch / "figures.json"
        finish(start_run(bundle, tables, scratch / "heads", figures_file, runner))
        seconds = time.perf_counter() - start
        megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        figures = json.loads(figures_file.read_text())
        if figures["heads"] != tasks:
            raise SystemExit(f"{tasks} tasks, but {figures['heads']} heads")

        features = np.random.default_rng(1).standard_normal((500, ROWS, size), np.float32)
        features /= size**0.5
        single = {
            name: time_calls(open_bundle(bundle, name), features)
            for name in ("onnx", "saved_model")
        }
        single["onnx, with files"] = time_loop(runtime, tables, scratch / "loop.parquet")
        figures |= {
            "seconds": seconds,
            "heads_per_second": tasks / seconds,
            "largest_process_megabytes": megabytes,
            "single_calls_per_second": single,
            "ratios": {name: tasks / seconds / rate for name, rate in single.items()},
            "largest_difference": check(runtime, tables, scratch / "heads"),
        }
        shutil.rmtree(scratch / "heads")

        first = min(tables.iterdir())
        finish(start_run(bundle, first, scratch / "whole", figures_file, "local"))
        disturbed = start_run(bundle, first, scratch / "disturbed", figures_file, "local")
        figures["workers_killed"] = kill_two(disturbed, scratch / "disturbed" / "heads")
        finish(disturbed)
        figures["same_after_kill"] = same_files(
            scratch / "whole" / "heads", scratch / "disturbed" / "heads"
        )
    print(f"{tasks} tasks, M={ROWS} D={size} N={WAYS}, {STEPS} steps, runner {runner}")
    print(
        f"in bulk       {figures['heads_per_second']:>10.0f} heads a second ({seconds:.1f} s, "
        f"largest process {megabytes:.0f} MB)"
    )
    for name, rate in single.items():
        ratio = figures["ratios"][name]
        print(f"one by one    {rate:>10.0f} heads a second, {name}: ratio {ratio:.1f}x")
    print(f"difference    {figures['largest_difference']:>10.1e} of the largest weight")
    killed, same = figures["workers_killed"], figures["same_after_kill"]
    print(f"{killed} workers killed in a run of {min(tasks, FILE)}: same output: {same}")
    write_json(json_file, figures)
    if not same or killed < 2:
        sys.exit(1)


if __name__ == "__main__":
    main()
