"""Which unseen classes are hard, and how the features of unseen classes lie."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from anil_tf.datasets.images import as_pictures
from anil_tf.episodes import EpisodeSampler
from anil_tf.training.run import FinishedRun

HARD_CLASSES = 8
SHOWN_CLASSES, SHOWN_IMAGES = 8, 20  # in the view of the features


@dataclass(frozen=True)
class Confusion:
    """The classes that are most often misclassified, and how they are confused with each other.

    Attributes:
        names: Names of the classes, the hardest first.
        images: uint8 `[n, H, W, C]`, one image of each class.
        among_all: Accuracy of each class in test episodes of all classes, `[n]`.
        shares: `[n, n]`: of the queries of a row's class, the share predicted as each column's.
    """

    names: tuple[str, ...]
    images: np.ndarray
    among_all: np.ndarray
    shares: np.ndarray

    @property
    def rows(self) -> list[tuple[str, str, str, str]]:
        """Number, name, accuracy among all classes, and the class it is most often taken for."""
        wrong = self.shares * (1 - np.eye(len(self.names)))
        return [
            (
                str(number + 1),
                name,
                f"{self.among_all[number]:.0%}",
                f"{wrong[number].argmax() + 1} ({wrong[number].max():.0%})"
                if wrong[number].any()
                else "none of these",
            )
            for number, name in enumerate(self.names)
        ]

    def to_json(self) -> list[dict[str, Any]]:
        """The numbers of each class, for a JSON file."""
        return [
            {"name": name, "accuracy": float(accuracy), "answers": row.tolist()}
            for name, accuracy, row in zip(self.names, self.among_all, self.shares, strict=True)
        ]


def confuse(tested: FinishedRun, episodes: int) -> Confusion | None:
    """Finds the hardest classes in test episodes, then classifies among those alone.

    Two classes seldom meet in an episode of all classes; among the hardest alone every two classes
    meet in every episode.

    Args:
        tested: Run to measure.
        episodes: Number of episodes, for each of the two measurements.

    Returns:
        None for a regression.
    """
    sampler = tested.sampler()
    if tested.classes is None or not isinstance(sampler, EpisodeSampler):
        return None
    asked, right = np.zeros((2, len(tested.classes.names)))
    for episode, answers in tested.predict(sampler, episodes):
        classes = episode["classes"][episode["query_y"]]
        np.add.at(asked, classes, 1)
        np.add.at(right, classes, answers == episode["query_y"])
    share = np.divide(right, asked, out=np.ones_like(right), where=asked > 0)

    model = tested.runtime.model
    adapts_columns = model.adapts_head and model.head_init == "per_class"
    count = min(HARD_CLASSES, len(share), model.ways if adapts_columns else len(share))
    hard = np.argsort(share, kind="stable")[:count]
    chosen = tested.classes.select(hard.tolist())
    apart = tested.sampler(chosen, ways=count)
    matrix = np.zeros((count, count))
    if isinstance(apart, EpisodeSampler):
        for episode, answers in tested.predict(apart, episodes):
            classes = episode["classes"]
            np.add.at(matrix, (classes[episode["query_y"]], classes[answers]), 1)
    return Confusion(
        chosen.names,
        as_pictures(np.stack([chosen.of(index)[0] for index in range(count)])),
        share[hard],
        matrix / matrix.sum(axis=1, keepdims=True),
    )


@dataclass(frozen=True)
class FeatureView:
    """Features of some unseen classes on their two main axes.

    Attributes:
        names: Names of the classes.
        images: uint8 `[n, H, W, C]`, one image of each class.
        points: float64 `[rows, 2]`.
        labels: Class of each point, integers `[rows]`.
        explained: Share of the variance on each axis, `[2]`.
    """

    names: tuple[str, ...]
    images: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    explained: np.ndarray


def view_features(tested: FinishedRun) -> FeatureView | None:
    """Features of classes drawn by the run's seed, before any adaptation; None for a regression."""
    if tested.classes is None:
        return None
    rng = np.random.default_rng(tested.recipe.seed)
    available = len(tested.classes.names)
    chosen = rng.permutation(available)[:SHOWN_CLASSES]
    images = [tested.classes.of(index)[:SHOWN_IMAGES] for index in chosen]
    embedding = tested.runtime.model.embedding
    features = embedding.embed_images(tf.constant(np.concatenate(images))).numpy()
    points, explained = project(features)
    return FeatureView(
        tuple(tested.classes.names[index] for index in chosen),
        as_pictures(np.stack([rows[0] for rows in images])),
        points,
        np.repeat(np.arange(len(chosen)), [len(rows) for rows in images]),
        explained,
    )


def project(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal component analysis onto two axes, by NumPy's singular value decomposition.

    Args:
        features: `[rows, D]`.

    Returns:
        Points `[rows, 2]`, and the share of the variance on each axis, `[2]`.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    total = np.sum(np.square(values)) or 1.0
    return left[:, :2] * values[:2], np.square(values[:2]) / total
