"""`anil report RUN OTHER ...`: several runs side by side, from what each has recorded."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anil_tf.support.files import replacing
from anil_tf.support.json_files import write_json
from anil_tf.training.report import charts, html
from anil_tf.training.run import RunDirectory
from anil_tf.training.watch.tensorboard import flatten
from anil_tf.training.wording import NORMS, value

SAME = ("ways", "shots", "queries", "split", "norm")  # what makes accuracies comparable
CURVES = {
    "val_accuracy": "accuracy, validation classes",
    "val_mse": "mean squared error, validation",
    "val_loss": "loss, validation",
    "accuracy": "accuracy, training classes",
    "mse": "mean squared error, training",
    "loss": "loss, training",
    "gradient_norm": "norm of the outer gradients",
    "inner_lr": "inner learning rate",
}


def write_comparison(
    runs: Sequence[Path], output: Path | None = None, json_path: Path | None = None
) -> Path:
    """Writes a page that compares runs. It measures nothing: `anil evaluate` does.

    Args:
        runs: Directories of finished runs, at least two.
        output: File to write; `comparison.html` in the first run by default.
        json_path: JSON file for the numbers; none by default.

    Returns:
        The file.

    Raises:
        FileNotFoundError: A run is not there or not finished.
        ValueError: A run is named twice.
    """
    directories = [RunDirectory(run) for run in runs]
    for directory in directories:
        directory.check_finished()
    if len({run.resolve() for run in runs}) < len(runs):
        raise ValueError(f"Each run is compared once. Received: {', '.join(map(str, runs))}")
    names = _short_names(runs)
    parts = [
        *_results(names, directories),
        *_differences(names, directories),
        *_curves(names, directories),
    ]
    output = directories[0].comparison_file if output is None else output
    with replacing(output) as partial:
        partial.write_text(html.page(f"Comparison of {len(runs)} runs", parts), encoding="utf-8")
    figures = [
        {"run": str(directory.path), **directory.read_metrics()} for directory in directories
    ]
    write_json(json_path, figures)
    return output


def _short_names(runs: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as are needed to distinguish them."""
    paths = [run.resolve().parts for run in runs]
    for count in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-count:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    return names


def _results(names: Sequence[str], directories: Sequence[RunDirectory]) -> list[str]:
    """What was measured, one column per run."""
    measured = [directory.read_evaluation() for directory in directories]
    columns = map(_result, directories, measured)
    parts = [html.heading("Results"), html.table(("", *names), _side_by_side(columns))]
    if missing := [
        f"anil evaluate {directory.path}"
        for directory, figures in zip(directories, measured, strict=True)
        if not figures
    ]:
        parts.append(html.next_steps([("Measure what is missing:", "\n".join(missing))]))
    found = [figures for figures in measured if figures]
    different = [name for name in SAME if len({str(figures.get(name)) for figures in found}) > 1]
    if different:
        text = (
            f"These runs were tested with different {', '.join(different)}: their accuracies are "
            "of different tasks and cannot be compared. Repeat anil evaluate with equal options."
        )
        parts.append(html.paragraph(text))
    return [*parts, html.paragraph("± is a 95% interval over episodes.")]


def _result(directory: RunDirectory, figures: dict[str, Any] | None) -> dict[str, str]:
    recipe, metrics = directory.read_recipe(), directory.read_metrics()
    trained, nil = metrics.get("train", {}), metrics.get("evaluate_nil")
    return {
        "algorithm": recipe.algorithm.upper(),
        "after adaptation": value(figures) if figures else "not evaluated",
        "before adaptation": value(figures, "_before_adaptation") if figures else "-",
        "without head and inner loop (NIL)": value(nil) if nil else "-",
        "tested on": _protocol(figures) if figures else "-",
        "batch normalisation": NORMS[recipe.model.norm],
        "training steps": f"{trained.get('steps', 0):,}",
        "minutes": f"{trained.get('seconds', 0) / 60:.1f}",
    }


def _side_by_side(columns: Iterable[dict[str, str]]) -> list[tuple[str, ...]]:
    """Rows of a table; a row in which no run has a value is left out."""
    columns = list(columns)
    rows = [(key, *(column[key] for column in columns)) for key in columns[0]]
    return [row for row in rows if set(row[1:]) != {"-"}]


def _protocol(figures: dict[str, Any]) -> str:
    if "mse" in figures:
        return f"{figures['episodes']} episodes, {figures['shots']} shots"
    return f"{figures['episodes']} episodes, {figures['ways']}-way {figures['shots']}-shot"


def _differences(names: Sequence[str], directories: Sequence[RunDirectory]) -> list[str]:
    """The keys of the recipes whose values differ, one column per run."""
    recipes = [flatten(directory.read_recipe().model_dump()) for directory in directories]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    rows = [
        (key, *(str(recipe.get(key, "-")) for recipe in recipes))
        for key in keys
        if len({str(recipe.get(key)) for recipe in recipes}) > 1
    ]
    heading = html.heading("What differs in the recipes")
    if not rows:
        return [heading, html.paragraph("Nothing: the runs have the same recipe.")]
    return [heading, html.table(("key", *names), rows)]


def _curves(names: Sequence[str], directories: Sequence[RunDirectory]) -> list[str]:
    """Validation and training over the steps, one line per run."""
    validations, trainings = [], []
    for directory in directories:
        history = directory.read_history()
        steps = directory.read_recipe().training.steps_per_epoch
        validations.append({**history, "step": (history.get("epoch", np.empty(0)) + 1) * steps})
        trainings.append(directory.read_curve())
    drawn = []
    for key, label in CURVES.items():
        columns = validations if key.startswith("val_") else trainings
        lines = {
            name: (column["step"], column[key])
            for name, column in zip(names, columns, strict=True)
            if key in column
        }
        if any(len(steps) > 1 for steps, _ in lines.values()):
            picture = charts.draw_lines(lines, label, share="accuracy" in key)
            drawn.append(html.picture(picture, f"{label} against training steps, one line per run"))
    return [html.heading("Training"), html.pictures(drawn)] if drawn else []
