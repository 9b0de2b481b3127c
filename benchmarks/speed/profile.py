"""Where a training step spends its time: milliseconds of each kernel, the slowest first.

    python -m benchmarks.speed.profile --workload W2

Uses TensorFlow's profiler on ten steps of `fit`. Two gradients of a layer may run at the same time
and wait for each other on a busy machine, so the sum of all kernels can exceed the step.
"""

import re
import tempfile
from collections import Counter
from pathlib import Path

import click
import numpy as np

from benchmarks.speed.ours import Ours
from benchmarks.speed.workloads import WORKLOADS, write_exchange

STEPS = 10
KERNEL = re.compile(r"(?P<path>.+):(?P<kind>\w+)$")
BLOCK = re.compile(r"block(\d)_")


def kernel_seconds(folder: Path) -> Counter[tuple[str, str]]:
    """Seconds of all kernels of a trace, by kind and block."""
    # Comes with TensorFlow, as a module of its own.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(next(folder.rglob("*.xplane.pb")).read_bytes())
    seconds: Counter[tuple[str, str]] = Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                found = KERNEL.match(plane.event_metadata[event.metadata_id].name)
                if found and "/" in found["path"]:
                    block = BLOCK.search(found["path"])
                    kind = found["kind"].removeprefix("_MklNative")
                    seconds[kind, block[1] if block else ""] += event.duration_ps * 1e-12
    return seconds


@click.command()
@click.option("--workload", type=click.Choice(list(WORKLOADS)), default="W1", show_default=True)
@click.option("--variant", default="anil-batch", show_default=True, help="Variant, as in ours.py.")
@click.option("--rows", default=12, show_default=True, help="Number of kernels to list.")
def main(workload: str, variant: str, rows: int) -> None:
    """Profile training."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as scratch:
        exchange = Path(scratch) / "exchange.npz"
        write_exchange(WORKLOADS[workload], exchange)
        with np.load(exchange) as file:
            ours = Ours(variant, dict(file))
        ours.train(3)
        with tf.profiler.experimental.Profile(scratch):
            step = np.median(ours.train(STEPS))
        seconds = kernel_seconds(Path(scratch))
    total = sum(seconds.values()) / (STEPS + 1)
    print(f"{workload} {variant}: {1000 * step:.1f} ms a step, {1000 * total:.1f} ms in kernels\n")
    print("| kernel | block | ms | share |")
    print("|---|---|---|---|")
    for (kind, block), each in seconds.most_common(rows):
        each /= STEPS + 1
        print(f"| {kind} | {block} | {1000 * each:.1f} | {100 * each / total:.0f} % |")


if __name__ == "__main__":
    main()
