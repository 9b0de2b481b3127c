"""The workloads of the comparison, with the weights and tasks that all implementations share."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

BLOCKS = 4
INNER_STEPS, INNER_LR = 5, 0.01
LEARNING_RATE = 1e-3
MOMENTUM, EPSILON = 0.95, 1e-3  # for batch normalisation, in Keras's convention


@dataclass(frozen=True)
class Workload:
    """A meta-batch of tasks for a Conv4 with max-pooling."""

    size: int
    channels: int
    filters: int
    ways: int
    shots: int
    queries: int
    tasks: int

    @property
    def images(self) -> int:
        """Images of one training step."""
        return self.tasks * self.ways * (self.shots + self.queries)

    @property
    def features(self) -> int:
        """D of the flattened last map."""
        return (self.size >> BLOCKS) ** 2 * self.filters

    def describe(self) -> str:
        """In words, for a table."""
        return (
            f"{self.size}x{self.size}x{self.channels}, Conv4-{self.filters}, {self.ways}-way "
            f"{self.shots}-shot, {self.queries} queries, {self.tasks} tasks"
        )


WORKLOADS = {
    "W1": Workload(28, 1, 64, 5, 1, 15, 4),
    "W1b": Workload(28, 1, 64, 20, 1, 5, 4),
    "W2": Workload(84, 3, 32, 5, 5, 15, 4),
    "W3": Workload(32, 3, 64, 5, 5, 15, 4),
}


CLASSES = 100  # of the images that episodes are drawn from


def images_per_class(data: dict[str, Any]) -> int:
    """As many as an episode takes of a class, and a few more."""
    return int(data["shots"]) + int(data["queries"]) + 5


def make_images(data: dict[str, Any], seed: int = 1) -> np.ndarray:
    """Noise to draw episodes from: uint8 `[n, H, W, C]`, equally many of each class in turn."""
    count = CLASSES * images_per_class(data)
    shape = (count, int(data["size"]), int(data["size"]), int(data["channels"]))
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_exchange(workload: Workload, path: Path, seed: int = 0) -> None:
    """Writes tasks and initial weights as `.npz`.

    Images are uint8 `[T, M, H, W, C]`: noise around a picture of each class, so that there is
    something to learn. Convolutions are `[3, 3, in, out]`, the head's kernel `[D, N]` on features
    flattened in the order height, width, channel.
    """
    rng = np.random.default_rng(seed)
    shape = (workload.tasks, workload.ways, 1, workload.size, workload.size, workload.channels)
    patterns = rng.integers(0, 256, shape)
    images, labels = {}, np.arange(workload.ways, dtype=np.int32)
    for part, rows in (("support", workload.shots), ("query", workload.queries)):
        noise = rng.integers(-60, 61, (*shape[:2], rows, *shape[3:]))
        noisy = np.clip(patterns + noise, 0, 255).astype(np.uint8)
        images[f"{part}_x"] = noisy.reshape(workload.tasks, -1, *shape[3:])
        images[f"{part}_y"] = np.tile(np.repeat(labels, rows), (workload.tasks, 1))

    weights: dict[str, Any] = {}
    for block in range(BLOCKS):
        inputs = workload.filters if block else workload.channels
        scale = np.sqrt(2 / (9 * inputs))
        kernel = rng.normal(0, scale, (3, 3, inputs, workload.filters))
        weights[f"conv{block}"] = kernel.astype(np.float32)
        # Away from 1 and 0, where an error of either would not be seen.
        weights[f"gamma{block}"] = rng.uniform(0.8, 1.2, workload.filters).astype(np.float32)
        weights[f"beta{block}"] = rng.uniform(-0.2, 0.2, workload.filters).astype(np.float32)
    head = rng.normal(0, workload.features**-0.5, (workload.features, workload.ways))
    weights |= {"kernel": head.astype(np.float32), "bias": np.zeros(workload.ways, np.float32)}
    np.savez(path, **images, **weights, **asdict(workload))
