"""A finished run, opened to be measured."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anil_tf.datasets.images import ClassImages
from anil_tf.episodes import EpisodeSampler, SinusoidSampler
from anil_tf.training.evaluate import evaluate_episodes
from anil_tf.training.keras_runtime import KerasRuntime
from anil_tf.training.recipe import Recipe, read_recipe
from anil_tf.training.samplers import make_sampler

SHOTS = (1, 2, 5, 10, 20)
STEPS = (0, 1, 2, 5, 10, 20)


class FinishedRun:
    """A finished run and the unseen classes that it is tested on.

    Args:
        run: Its directory.
        data_dir: Where the data lies.

    Raises:
        FileNotFoundError: The run is not there or not finished.
        ValueError: The data does not fit.
    """

    def __init__(self, run: Path, data_dir: Path | None = None) -> None:
        if not (run / "model.keras").is_file():
            raise FileNotFoundError(f"{run} is not a finished run: it has no model.keras")
        self.recipe: Recipe = read_recipe(run / "recipe.toml")
        self.runtime = KerasRuntime.load(run / "model.keras")
        self.classes: ClassImages | None = None
        if self.recipe.data.source != "sinusoid":
            self.classes = self.recipe.data.load(("test",), data_dir)["test"]
        steps = self.recipe.evaluation.inner_steps
        self.steps = self.runtime.inner_steps if steps is None else steps

    def sampler(
        self, classes: ClassImages | None = None, **protocol: int
    ) -> EpisodeSampler | SinusoidSampler:
        """Test episodes of the recipe's protocol, or with some of its sizes replaced.

        Args:
            classes: In place of all unseen classes.
            **protocol: `ways`, `shots`, `queries`.
        """
        evaluation = self.recipe.evaluation.model_copy(update=protocol)
        classes = self.classes if classes is None else classes
        return make_sampler(self.recipe.data, classes, evaluation, self.recipe.seed, "test")

    def measure(self, episodes: int, steps: int | None = None, **protocol: int) -> dict[str, Any]:
        """The figures of `evaluate_episodes`."""
        steps = self.steps if steps is None else steps
        return evaluate_episodes(self.runtime, self.sampler(None, **protocol), episodes, steps)

    def sweep_shots(self, episodes: int) -> list[dict[str, Any]]:
        """Accuracy with few and with many support images, as far as there are images."""
        evaluation = self.recipe.evaluation
        most = math.inf
        if self.classes is not None:
            most = int(self.classes.counts.min()) - evaluation.queries
        shots = sorted({*SHOTS, evaluation.shots})
        return [self.measure(episodes, shots=count) for count in shots if count <= most]

    def sweep_steps(self, episodes: int) -> list[dict[str, Any]]:
        """Accuracy after few and after many inner steps; none where nothing adapts."""
        model = self.runtime.model
        if not (model.adapts_head or model.adapts_body):
            return []
        return [self.measure(episodes, steps) for steps in sorted({*STEPS, self.steps})]

    def answer(
        self, sampler: EpisodeSampler, episodes: int
    ) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Episodes, each with the class answered for each of its queries, `[Q]`."""
        for index in range(episodes):
            episode = sampler.episode(index)
            _, logits = self.runtime.answer(episode, sampler.ways, self.steps)
            yield episode, logits.argmax(-1)


def read_history(run: Path) -> dict[str, np.ndarray]:
    """The columns of `history.csv`, each float64 `[epochs]`; none of a run without a step."""
    path = run / "history.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() if rows else ()
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
