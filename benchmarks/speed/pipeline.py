"""The input pipeline: episodes per second, compared with a loop that opens images with Pillow.

    python -m benchmarks.speed.pipeline --data-dir TFDS --folder PHOTOS

W1 on Omniglot and W2 on a folder of 84x84 JPEG files, one folder per class. The share of a training
step is the extra time of `fit` with the pipeline compared with one batch in memory, in turns.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from benchmarks.speed.worker import THREADS, keep_to_two_cores

keep_to_two_cores()

import anil_tf  # noqa: F401, I001  before TensorFlow: it turns oneDNN on
import keras
import tensorflow as tf
from anil_tf import ANIL, EpisodeAccuracy, EpisodeSampler, backbones
from anil_tf.datasets.folder import list_classes, read_classes
from anil_tf.datasets.images import ClassImages
from anil_tf.datasets.tfds import read_tfds
from anil_tf.support.json_files import write_json
from benchmarks.speed.ours import Clock
from benchmarks.speed.workloads import WORKLOADS, Workload

WRITTEN_CLASSES = 100  # of Omniglot, written as PNG files for the loop


def pillow_episodes(files: dict[str, list[Path]], workload: Workload, episodes: int) -> float:
    """Seconds of a plain loop that draws episodes and opens their images alike."""
    rng = np.random.default_rng(0)
    names = list(files)
    mode = "L" if workload.channels == 1 else "RGB"
    rows = workload.shots + workload.queries
    start = time.perf_counter()
    for _ in range(episodes):
        images = []
        for name in rng.choice(names, workload.ways, replace=False):
            for path in rng.choice(files[name], rows, replace=False):  # type: ignore[arg-type]
                with Image.open(path) as image:
                    images.append(np.asarray(image.convert(mode)))
        np.stack(images)
    return time.perf_counter() - start


def our_episodes(sampler: EpisodeSampler, workload: Workload, batches: int) -> float:
    """Seconds of the pipeline alone."""
    dataset = iter(sampler.dataset(batches + 1, workload.tasks))
    next(dataset)
    start = time.perf_counter()
    for _ in dataset:
        pass
    return time.perf_counter() - start


def step_seconds(sampler: EpisodeSampler, workload: Workload, steps: int, turns: int) -> Any:
    """Median seconds of a step of `fit`, from the pipeline and from memory."""
    shape = workload.size, workload.size, workload.channels
    model = ANIL(backbones.conv4(shape, filters=workload.filters), ways=workload.ways)
    model.compile(keras.optimizers.Adam(1e-3), metrics=[EpisodeAccuracy()])
    held = tf.data.Dataset.from_tensors(next(iter(sampler.dataset(1, workload.tasks))))
    datasets = {
        "pipeline": lambda: sampler.dataset(steps + 1, workload.tasks),
        "memory": lambda: held.repeat(steps + 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in datasets}
    clock = Clock()
    for turn in range(turns + 1):
        for name, make in datasets.items():
            model.fit(make(), verbose=0, shuffle=False, callbacks=[clock])
            if turn:  # the first is warming up
                seconds[name] += np.diff(clock.ends).tolist()
    return {
        name: {"median": statistics.median(values), "minimum": min(values)}
        for name, values in seconds.items()
    }


def measure(
    classes: ClassImages, files: dict[str, list[Path]], workload: Workload, turns: int
) -> dict[str, float]:
    """All measurements of one workload."""
    sampler = EpisodeSampler(classes, workload.ways, workload.shots, workload.queries)
    batches, loops = 50, 20
    ours = workload.tasks * batches / min(our_episodes(sampler, workload, batches) for _ in "123")
    plain = loops / min(pillow_episodes(files, workload, loops) for _ in "123")
    step = step_seconds(sampler, workload, 10, turns)
    consumed = workload.tasks / step["memory"]["median"]
    return {
        "episodes_per_second": ours,
        "pillow_episodes_per_second": plain,
        "consumed_per_second": consumed,
        "over_training": ours / consumed,
        "share_of_step": step["pipeline"]["median"] / step["memory"]["median"] - 1,
        "share_of_best_step": step["pipeline"]["minimum"] / step["memory"]["minimum"] - 1,
    }


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="TFDS folder of Omniglot.")
@click.option(
    "--folder", type=click.Path(exists=True, path_type=Path), help="Folder of photographs."
)
@click.option("--turns", default=4, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the results.")
def main(data_dir: Path | None, folder: Path | None, turns: int, json_file: Path | None) -> None:
    """Time the pipeline, the loop and training."""
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        omniglot = read_tfds("omniglot", ["train"], (28, 28, 1), data_dir)
        written: dict[str, list[Path]] = {}
        for index in range(WRITTEN_CLASSES):
            paths = [Path(scratch) / f"{index}-{row}.png" for row in range(omniglot.counts[index])]
            for path, image in zip(paths, omniglot.of(index), strict=True):
                Image.fromarray(image[..., 0]).save(path)
            written[omniglot.names[index]] = paths
        figures["W1, Omniglot"] = measure(omniglot, written, WORKLOADS["W1"], turns)
    if folder is not None:
        workload = WORKLOADS["W2"]
        rows = workload.shots + workload.queries
        files = {name: paths for name, paths in list_classes(folder).items() if len(paths) >= rows}
        photographs = read_classes(files, (84, 84, 3))
        figures["W2, JPEG files"] = measure(photographs, files, workload, turns)
    print("| | episodes/s | Pillow loop | training consumes | times that | share of the step |")
    print("|---|---|---|---|---|---|")
    for name, row in figures.items():
        print(
            f"| {name} | {row['episodes_per_second']:.0f} "
            f"| {row['pillow_episodes_per_second']:.1f} | {row['consumed_per_second']:.1f} "
            f"| {row['over_training']:.0f} | {100 * row['share_of_step']:.1f} % "
            f"({100 * row['share_of_best_step']:.1f} % of the best steps) |"
        )
    write_json(json_file, figures)


if __name__ == "__main__":
    main()
