"""A run directory: what lies where, how it is read, and a finished run opened from it.

Training writes these files, evaluation and analysis add to them, reports read them. Their names
stand here and nowhere else, except in `anil_tf.export`, which opens a run without this package.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anil_tf.acceptance import Temperature
from anil_tf.datasets.images import ClassImages
from anil_tf.episodes import EpisodeSampler, SinusoidSampler
from anil_tf.support.files import replacing
from anil_tf.support.json_files import read_json, write_json
from anil_tf.support.progress import track
from anil_tf.training.keras_runtime import KerasRuntime
from anil_tf.training.recipe import Recipe, read_recipe
from anil_tf.training.samplers import make_sampler

# What makes two evaluations the same measurement. More episodes or another seed measure it again.
OPEN_SET = "open_set"  # only in an evaluation with unknown classes
PROTOCOL = ("ways", "shots", "queries", "inner_steps", "split", "runtime", "norm", "nil", OPEN_SET)


class RunDirectory:
    """The files of a run.

    Args:
        path: The run directory, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.toml"
        self.model_file = path / "model.keras"
        self.checkpoints = path / "checkpoints"
        self.best_file = self.checkpoints / "best.keras"
        self.history_file = path / "history.csv"
        self.curve_file = path / "curve.csv"
        self.metrics_file = path / "metrics.json"
        self.environment_file = path / "environment.json"
        self.examples_file = path / "examples.npz"
        self.tensorboard = path / "tensorboard"
        self.analysis_file = path / "analysis.json"
        self.analysis_picture = path / "analysis.png"
        self.report_file = path / "report.html"
        self.comparison_file = path / "comparison.html"

    @property
    def is_finished(self) -> bool:
        """Whether training has ended, so that there is a model."""
        return self.model_file.is_file()

    def check_finished(self) -> None:
        """Requires a finished run.

        Raises:
            FileNotFoundError: There is no run, or its training has not ended.
        """
        if not self.is_finished:
            raise FileNotFoundError(f"{self.path} is not a finished run: it has no model.keras")

    def read_recipe(self) -> Recipe:
        """The recipe that the run is trained with."""
        return read_recipe(self.recipe_file)

    def read_metrics(self) -> dict[str, Any]:
        """What was measured: `train`, and what `record` keeps."""
        return read_json(self.metrics_file)

    def read_history(self) -> dict[str, np.ndarray]:
        """The columns of the history, each float64 `[epochs]`; none where there was no training."""
        return _read_columns(self.history_file)

    def write_history(self, history: Sequence[dict[str, float]]) -> None:
        """Writes the history, one row per epoch."""
        _write_columns(self.history_file, history, "epoch")

    def read_curve(self) -> dict[str, np.ndarray]:
        """The columns of the training curve, float64 `[points]`; none where there is no curve."""
        return _read_columns(self.curve_file)

    def write_curve(self, points: Sequence[dict[str, float]]) -> None:
        """Writes the training curve, one row per point."""
        _write_columns(self.curve_file, points, "step")

    def append_to_curve(self, point: dict[str, float]) -> None:
        """Adds a row to a curve that `write_curve` has begun, without writing it all again."""
        row = [point["step"], *(point[name] for name in sorted(point.keys() - {"step"}))]
        try:
            with self.curve_file.open("a", encoding="utf-8") as file:
                file.write(",".join(map(str, row)) + "\n")
        except OSError as error:  # of a full disk, which names no file
            raise OSError(error.errno, error.strerror, str(self.curve_file)) from error

    def record(self, figures: dict[str, Any]) -> None:
        """Keeps an evaluation in the run's metrics.

        `evaluations` lists one evaluation for each protocol, see `PROTOCOL`: a new one replaces
        that of the same protocol. The evaluation with the recipe's own protocol on the test split
        is also kept as `evaluate`, or `evaluate_nil` without head and inner loop: bundles and
        reports quote it as the accuracy of the run.

        Args:
            figures: An evaluation, as `evaluate_path` returns it.
        """
        metrics = self.read_metrics()
        key = _protocol(figures)
        others = [row for row in metrics.get("evaluations", []) if _protocol(row) != key]
        metrics["evaluations"] = [*others, figures]
        if self._is_of_the_recipe(figures):
            metrics["evaluate_nil" if figures["nil"] else "evaluate"] = figures
        write_json(self.metrics_file, metrics)

    def open_runtime(self) -> KerasRuntime:
        """The trained model, with the temperature that validation classes gave."""
        table = self.read_metrics().get("acceptance") or {}
        return KerasRuntime.load(self.model_file, Temperature(*table.get("temperature", ())))

    def read_evaluation(self) -> dict[str, Any] | None:
        """The evaluation with the recipe's own protocol; None where it has not been made."""
        figures = self.read_metrics().get("evaluate")
        return figures if figures and self._is_of_the_recipe(figures) else None

    def find_evaluation(self, **protocol: Any) -> dict[str, Any] | None:
        """The evaluation that differs from the recipe's own in these values alone.

        Args:
            **protocol: Values of `PROTOCOL`, such as `inner_steps=5`.

        Returns:
            The evaluation; None where it has not been made.
        """
        metrics = self.read_metrics()
        base = metrics.get("evaluate")
        if base is None:
            return None
        key = _protocol({**base, **protocol})
        rows = metrics.get("evaluations", [])
        return next((row for row in rows if _protocol(row) == key), None)

    def _is_of_the_recipe(self, figures: dict[str, Any]) -> bool:
        if OPEN_SET in figures:
            return False
        recipe = self.read_recipe()
        evaluation = recipe.evaluation
        expected = {
            "ways": 1 if recipe.data.is_regression else evaluation.ways,
            "shots": evaluation.shots,
            "queries": evaluation.queries,
            "split": "test",
        }
        if recipe.adapts and not figures["nil"]:  # nothing else has inner steps
            steps = evaluation.inner_steps
            expected["inner_steps"] = recipe.model.inner_steps if steps is None else steps
        return all(figures[name] == value for name, value in expected.items())


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):  # its writer was killed
        lines.pop()
    rows = list(csv.DictReader(lines))
    names = rows[0].keys() if rows else ()
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def _write_columns(path: Path, rows: Sequence[dict[str, float]], first: str) -> None:
    names = [first, *sorted(rows[0].keys() - {first})]
    lines = [names, *([str(row[name]) for name in names] for row in rows)]
    with replacing(path) as partial:
        partial.write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")


def _protocol(figures: dict[str, Any]) -> tuple[Any, ...]:
    """What identifies an evaluation; a range of shots is a list in JSON and a tuple in Python."""
    figures = figures | {OPEN_SET: OPEN_SET in figures}
    values = (figures.get(name) for name in PROTOCOL)
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


class FinishedRun:
    """A finished run with its model and the classes of one split.

    Args:
        path: The run directory.
        data_dir: Folder of the data.
        split: Split whose classes the episodes are drawn from.

    Raises:
        FileNotFoundError: The run is not there or not finished.
        ValueError: The data does not fit.
    """

    def __init__(self, path: Path, data_dir: Path | None = None, split: str = "test") -> None:
        self.directory = RunDirectory(path)
        self.directory.check_finished()
        self.split = split
        self.recipe = self.directory.read_recipe()
        self.runtime = self.directory.open_runtime()
        self.classes = self.recipe.data.load_split(split, data_dir)
        steps = self.recipe.evaluation.inner_steps
        self.steps = self.runtime.inner_steps if steps is None else steps

    def sampler(
        self, classes: ClassImages | None = None, **protocol: int
    ) -> EpisodeSampler | SinusoidSampler:
        """The sampler of the recipe's protocol, with some of its sizes replaced.

        Args:
            classes: Classes to draw from; all classes of the split by default.
            **protocol: `ways`, `shots`, `queries`.
        """
        recipe = self.recipe
        evaluation = recipe.evaluation.model_copy(update=protocol)
        classes = self.classes if classes is None else classes
        return make_sampler(recipe.data, classes, evaluation, recipe.seed, self.split)

    def predict(
        self, sampler: EpisodeSampler, episodes: int
    ) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """The sampler's first episodes, each with the class predicted for each query, `[Q]`."""
        for index in track(range(episodes), "Classifying", unit="episode"):
            episode = sampler.episode(index)
            _, logits = self.runtime.adapt_and_predict(episode, sampler.ways, self.steps)
            yield episode, logits.argmax(-1)
