"""The sections of a report that show measurements, as HTML."""

from typing import Any

import numpy as np

from anil_tf.training.evaluate import describe
from anil_tf.training.report import charts, html
from anil_tf.training.report.measure import Measurements
from anil_tf.training.wording import value


def training(measured: Measurements) -> list[str]:
    """The curves of the training."""
    history, heading = measured.history, html.heading("Training")
    if not history:
        text = "There was no training: the weights are the initial ones."
        return [heading, html.paragraph(text)]
    epoch = measured.tested.recipe.training.steps_per_epoch
    text = (
        "Validation classes are not among the training classes. Before adaptation the head knows "
        "nothing about a task and predicts by chance. The distance between the dashed and the "
        "solid line is what it learns in the inner steps."
    )
    drawn = [
        html.picture(charts.draw_curves(history, epoch, name), f"{name} against training steps")
        for name in ("mse" if "mse" in history else "accuracy", "loss")
    ]
    return [heading, html.paragraph(text), html.pictures(drawn)]


def sweeps(measured: Measurements) -> list[str]:
    """Accuracy against shots and against inner steps."""
    shots, steps = measured.tested.recipe.evaluation.shots, measured.tested.steps
    drawn = [
        *_sweep(measured.shots, "shots", "support images per class", shots),
        *_sweep(measured.steps, "inner_steps", "inner steps", steps),
    ]
    if not drawn:
        return []
    text = (
        f"Test classes, {measured.episodes} episodes per point, with 95% intervals. The circle "
        "marks the recipe's own value; the rest of the protocol is the recipe's."
    )
    return [html.heading("Shots and inner steps"), html.paragraph(text), html.pictures(drawn)]


def _sweep(rows: list[dict[str, Any]], name: str, label: str, chosen: int) -> list[str]:
    if not rows:
        return []
    values = "; ".join(f"{row[name]}: {value(row)}" for row in rows)
    chart = charts.draw_sweep(rows, name, label, chosen)
    return [html.picture(chart, f"Against {label}: {values}", values)]


def evaluations(measured: Measurements) -> list[str]:
    """The evaluations that `anil evaluate` has made with other protocols than the recipe's."""
    others = [row for row in measured.evaluations if row != measured.evaluate]
    if not others:
        return []
    text = "Each was made by anil evaluate with the options that its row names."
    header = ("split", "ways", "shots", "inner steps", "episodes", "result")
    rows = [
        (
            row["split"],
            str(row["ways"]),
            _shots(row),
            "none (NIL)" if row["nil"] else str(row["inner_steps"]),
            str(row["episodes"]),
            value(row),
        )
        for row in others
    ]
    return [html.heading("Other protocols"), html.paragraph(text), html.table(header, rows)]


def _shots(row: dict[str, Any]) -> str:
    shots = row["shots"]
    return str(shots) if isinstance(shots, int) else "-".join(map(str, shots))


def episodes(measured: Measurements) -> list[str]:
    """The first test episodes."""
    heading = html.heading("Episodes")
    if measured.waves:
        drawn = [
            html.picture(charts.draw_wave(wave), "A wave and its fit") for wave in measured.waves
        ]
        return [heading, html.paragraph("The first test episodes."), html.pictures(drawn)]
    text = (
        "The first test episodes, not selected. Each row is a class. On the left, framed grey, are "
        "the images that it learned from. On the right are new images: green where the prediction "
        "is right, red where it is wrong, with the number of the predicted row."
    )
    drawn = [
        html.picture(
            charts.draw_answers(episode),
            f"{episode.title}: "
            f"{np.mean(episode.answers == np.arange(len(episode.answers))[:, np.newaxis]):.0%} "
            "of the queries classified right",
        )
        for episode in measured.answered
    ]
    return [heading, html.paragraph(text), html.pictures(drawn)]


def features(measured: Measurements) -> list[str]:
    """Where the images of unseen classes lie."""
    view = measured.features
    if view is None:
        return []
    text = (
        f"The backbone's features of {len(view.names)} unseen classes, drawn at random, before any "
        "adaptation: one point per image, one colour per class. A linear head can separate classes "
        "that lie apart here; classes that overlap may still be apart on the other axes. Principal "
        "components, by NumPy."
    )
    image = html.picture(
        charts.draw_features(view),
        "Features of unseen classes in two dimensions",
        "Classes: " + ", ".join(view.names),
    )
    heading = html.heading("Features of unseen classes")
    return [heading, html.paragraph(text), html.pictures([image])]


def confusion(measured: Measurements) -> list[str]:
    """The classes with the lowest accuracy."""
    confusion = measured.confusion
    if confusion is None:
        return []
    text = (
        f"The {len(confusion.names)} test classes with the lowest accuracy among all, here "
        f"classified among each other alone, in {measured.episodes} episodes: of the new images of "
        "each row, the percentage predicted as each column."
    )
    image = html.picture(charts.draw_confusion(confusion), "Which hard class is taken for which")
    header = ("", "class", "accuracy among all", "most often taken for")
    return [
        html.heading("Hard classes"),
        html.paragraph(text),
        html.pictures([image, html.table(header, confusion.rows)]),
    ]


def reliability(measured: Measurements) -> list[str]:
    """How honest the probabilities are."""
    figures = measured.evaluate
    if "reliability" not in figures:
        return []
    text = (
        "Of the queries that the model names with a probability of 90 %, nine in ten should be "
        "named rightly. Each point is a bin of queries; its area shows how many. Points below the "
        f"line are too sure. The mean distance to it is {figures['ece']:.3f} (expected calibration "
        f"error), the negative log-likelihood {figures['negative_log_likelihood']:.3f}."
    )
    image = html.picture(
        charts.draw_reliability(figures["reliability"]), "Accuracy against probability"
    )
    return [html.heading("Probabilities"), html.paragraph(text), html.pictures([image])]


def unknown(measured: Measurements) -> list[str]:
    """What the model says to images of classes that it was never taught."""
    found = measured.unknown
    if found is None:
        return []
    text = f"Each episode also shows images of as many unknown classes. {describe(found.figures)}."
    heading = html.heading("None of these")
    if not len(found.images):
        return [heading, html.paragraph(text)]
    shown = (
        f"{text} Above: of the images of unknown classes that were let through, those most similar "
        "to a learned class. Below each: an image of that class, and the similarity."
    )
    image = html.picture(
        charts.draw_let_through(found), "Images of unknown classes that were let through"
    )
    return [heading, html.paragraph(shown), html.pictures([image])]
