"""What a report of a run measures: sweeps of the protocol, hard classes, a view of the features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from anil_tf.episodes import EpisodeSampler, SinusoidSampler
from anil_tf.training.report.pictures import Answered
from anil_tf.training.run import FinishedRun

HARD_CLASSES = 8
SHOWN_CLASSES, SHOWN_IMAGES = 8, 20  # of the view of the features
SHOWN_EPISODES, SHOWN_WAYS, SHOWN_SHOTS, SHOWN_QUERIES = 3, 5, 3, 6


def answered_episodes(tested: FinishedRun) -> list[Answered]:
    """The first test episodes, of sizes that can be looked at, with their answers."""
    evaluation = tested.recipe.evaluation
    sampler = tested.sampler(
        ways=min(evaluation.ways, SHOWN_WAYS),
        shots=min(evaluation.shots, SHOWN_SHOTS),
        queries=min(evaluation.queries, SHOWN_QUERIES),
    )
    if not isinstance(sampler, EpisodeSampler):
        return []
    shape = sampler.data.images.shape[1:]
    return [
        Answered(
            f"Episode {number}",
            episode["support_x"].reshape(sampler.ways, sampler.shots, *shape),
            episode["query_x"].reshape(sampler.ways, sampler.queries, *shape),
            answers.reshape(sampler.ways, sampler.queries),
        )
        for number, (episode, answers) in enumerate(tested.answer(sampler, SHOWN_EPISODES), 1)
    ]


@dataclass(frozen=True)
class Confusion:
    """The classes most often named wrong, told apart from each other alone.

    Attributes:
        names: Of the classes, the hardest first.
        images: uint8 `[n, H, W, C]`, one of each.
        among_all: Share of each named right in test episodes of all classes.
        shares: `[n, n]`: of the queries of a row's class, the share answered with each column's.
    """

    names: tuple[str, ...]
    images: np.ndarray
    among_all: np.ndarray
    shares: np.ndarray

    @property
    def rows(self) -> list[tuple[str, str, str, str]]:
        """Number, name, share right among all classes, and what each is most often taken for."""
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


def confuse(tested: FinishedRun, episodes: int) -> Confusion | None:
    """Finds the hardest classes in test episodes, then has only those told apart.

    A pair of classes seldom meets in an episode of all classes: among the hardest alone every pair
    meets in every episode.

    Returns:
        None for a regression.
    """
    sampler = tested.sampler()
    if tested.classes is None or not isinstance(sampler, EpisodeSampler):
        return None
    asked, right = np.zeros((2, len(tested.classes.names)))
    for episode, answers in tested.answer(sampler, episodes):
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
        for episode, answers in tested.answer(apart, episodes):
            classes = episode["classes"]
            np.add.at(matrix, (classes[episode["query_y"]], classes[answers]), 1)
    return Confusion(
        chosen.names,
        np.stack([chosen.of(index)[0] for index in range(count)]),
        share[hard],
        matrix / matrix.sum(axis=1, keepdims=True),
    )


@dataclass(frozen=True)
class FeatureView:
    """Features of some unseen classes on their two main axes.

    Attributes:
        names: Of the classes.
        images: uint8 `[n, H, W, C]`, one of each.
        points: float64 `[rows, 2]`.
        labels: Integers `[rows]`, which class.
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
        np.stack([rows[0] for rows in images]),
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


def waves(tested: FinishedRun) -> list[dict[str, Sequence[float]]]:
    """The first test episodes of a regression: support, queries, outputs before and after."""
    sampler = tested.sampler()
    if not isinstance(sampler, SinusoidSampler):
        return []
    drawn = []
    for index in range(SHOWN_EPISODES):
        episode = sampler.episode(index)
        before, after = tested.runtime.answer(episode, 1, tested.steps)
        order = np.argsort(episode["query_x"][:, 0])
        columns = {
            "x": episode["query_x"], "y": episode["query_y"], "before": before, "after": after
        }  # fmt: skip
        drawn.append(
            {name: values[order, 0] for name, values in columns.items()}
            | {"support_x": episode["support_x"][:, 0], "support_y": episode["support_y"][:, 0]}
        )
    return drawn
