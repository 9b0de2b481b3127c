"""What a report of a run measures; `measure_run` measures all of it before a page is rendered."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anil_tf.datasets.images import as_pictures
from anil_tf.episodes import EpisodeSampler, SinusoidSampler
from anil_tf.support.progress import track
from anil_tf.training.evaluate import evaluate_episodes
from anil_tf.training.report.classes import Confusion, FeatureView, confuse, view_features
from anil_tf.training.report.pictures import Answered
from anil_tf.training.report.unknown import UnknownClasses, face_unknown
from anil_tf.training.run import FinishedRun

SHOTS = (1, 2, 5, 10, 20)
STEPS = (0, 1, 2, 5, 10, 20)
SHOWN_EPISODES, SHOWN_WAYS, SHOWN_SHOTS, SHOWN_QUERIES = 3, 5, 3, 6


@dataclass(frozen=True)
class Measurements:
    """All that a report shows of a run.

    Attributes:
        tested: The run.
        trained: `steps`, `seconds` and so on of the training.
        history: Metrics of each epoch, by name; see `RunDirectory.read_history`.
        evaluate: The evaluation with the recipe's protocol.
        evaluated: Whether `anil evaluate` has made it; otherwise this report did.
        evaluations: All evaluations that the run keeps, of any protocol.
        episodes: Number of episodes for each point of a sweep.
        shots: Evaluations with few and with many support images per class.
        steps: Evaluations with few and with many inner steps.
        answered: Test episodes with their predictions; none for a regression.
        waves: Test episodes of a regression; see `waves`.
        features: Features of unseen classes; None for a regression.
        confusion: The hardest classes; None for a regression.
        unknown: How images of unknown classes are judged; None where they cannot be.
    """

    tested: FinishedRun
    trained: dict[str, Any]
    history: dict[str, np.ndarray]
    evaluate: dict[str, Any]
    evaluated: bool
    evaluations: list[dict[str, Any]]
    episodes: int
    shots: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    answered: list[Answered]
    waves: list[dict[str, Sequence[float]]]
    features: FeatureView | None
    confusion: Confusion | None
    unknown: UnknownClasses | None

    def to_json(self) -> dict[str, Any]:
        """The numbers, for a JSON file."""
        figures: dict[str, Any] = {
            "evaluate": self.evaluate,
            "shots": self.shots,
            "steps": self.steps,
        }
        if self.confusion is not None:
            figures["hard_classes"] = self.confusion.to_json()
        if self.unknown is not None:
            figures["unknown_classes"] = self.unknown.figures
        return figures


def measure_run(tested: FinishedRun, episodes: int) -> Measurements:
    """Measures a run on its test classes.

    Args:
        tested: Run to measure.
        episodes: Number of episodes for each point of a sweep, and for the recipe's protocol if
            `anil evaluate` has not measured it.
    """
    metrics = tested.directory.read_metrics()
    evaluate = tested.directory.read_evaluation()
    return Measurements(
        tested=tested,
        trained=metrics.get("train", {}),
        history=tested.directory.read_history(),
        evaluate=evaluate or evaluate_with(tested, episodes),
        evaluated=evaluate is not None,
        evaluations=metrics.get("evaluations", []),
        episodes=episodes,
        shots=sweep_shots(tested, episodes),
        steps=sweep_steps(tested, episodes),
        answered=answered_episodes(tested),
        waves=waves(tested),
        features=view_features(tested),
        confusion=confuse(tested, episodes),
        unknown=face_unknown(tested, episodes),
    )


def evaluate_with(
    tested: FinishedRun, episodes: int, steps: int | None = None, **protocol: int
) -> dict[str, Any]:
    """The recipe's evaluation with some of its sizes replaced; see `evaluate_episodes`."""
    steps = tested.steps if steps is None else steps
    sampler = tested.sampler(None, **protocol)
    return evaluate_episodes(tested.runtime, sampler, episodes, inner_steps=steps)


def sweep_shots(tested: FinishedRun, episodes: int) -> list[dict[str, Any]]:
    """Evaluations with few and with many support images, as far as there are images."""
    evaluation = tested.recipe.evaluation
    most = math.inf
    if tested.classes is not None:
        most = int(tested.classes.counts.min()) - evaluation.queries
    shots = [count for count in sorted({*SHOTS, evaluation.shots}) if count <= most]
    return [
        evaluate_with(tested, episodes, shots=count)
        for count in track(shots, "Accuracy by support images")
    ]


def sweep_steps(tested: FinishedRun, episodes: int) -> list[dict[str, Any]]:
    """Evaluations after few and after many inner steps; none where nothing adapts."""
    if not tested.recipe.adapts:
        return []
    steps = sorted({*STEPS, tested.steps})
    return [
        evaluate_with(tested, episodes, count) for count in track(steps, "Accuracy by inner steps")
    ]


def answered_episodes(tested: FinishedRun) -> list[Answered]:
    """The first test episodes, small enough to be shown, with their predictions."""
    evaluation = tested.recipe.evaluation
    ways, shots = min(evaluation.ways, SHOWN_WAYS), min(evaluation.shots, SHOWN_SHOTS)
    queries = min(evaluation.queries, SHOWN_QUERIES)
    sampler = tested.sampler(ways=ways, shots=shots, queries=queries)
    if not isinstance(sampler, EpisodeSampler):
        return []
    shape = sampler.data.images.shape[1:]
    return [
        Answered(
            f"Episode {number}",
            as_pictures(episode["support_x"].reshape(ways, shots, *shape)),
            as_pictures(episode["query_x"].reshape(ways, queries, *shape)),
            answers.reshape(ways, queries),
        )
        for number, (episode, answers) in enumerate(tested.predict(sampler, SHOWN_EPISODES), 1)
    ]


def waves(tested: FinishedRun) -> list[dict[str, Sequence[float]]]:
    """The first test episodes of a regression: support, queries, outputs before and after."""
    sampler = tested.sampler()
    if not isinstance(sampler, SinusoidSampler):
        return []
    drawn = []
    for index in range(SHOWN_EPISODES):
        episode = sampler.episode(index)
        before, after = tested.runtime.adapt_and_predict(episode, 1, tested.steps)
        order = np.argsort(episode["query_x"][:, 0])
        columns = {
            "x": episode["query_x"], "y": episode["query_y"], "before": before, "after": after
        }  # fmt: skip
        drawn.append(
            {name: values[order, 0] for name, values in columns.items()}
            | {"support_x": episode["support_x"][:, 0], "support_y": episode["support_y"][:, 0]}
        )
    return drawn
