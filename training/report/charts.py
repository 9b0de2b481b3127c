"""The pictures of a run's report, as PNG bytes, each narrow enough to be read on a phone."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from anil_tf.training.report.classes import Confusion, FeatureView
from anil_tf.training.report.pictures import Answered, draw_episode
from anil_tf.training.report.unknown import UnknownClasses

WIDTH = 4.8  # inches: text of 9 points is then as large as the page's on a phone
BLUE, ORANGE, GREY = "#0969da", "#bc4c00", "#8c959f"
COLORS = (
    "#0969da", "#bc4c00", "#1a7f37", "#cf222e", "#8250df", "#9a6700", "#1b7c83", "#bf3989"
)  # fmt: skip


def _chart(xlabel: str, ylabel: str, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


def draw_curves(history: dict[str, np.ndarray], steps_per_epoch: int, metric: str) -> bytes:
    """Curves of training (blue) and validation (orange), after (solid) and before adaptation."""
    labels = {"accuracy": "accuracy", "mse": "mean squared error", "loss": "loss of the queries"}
    figure, axes = _chart("training steps", labels[metric])
    steps = (history["epoch"] + 1) * steps_per_epoch
    for prefix, name, color in (("", "training", BLUE), ("val_", "validation", ORANGE)):
        for suffix, when, style in (("", "", "-o"), ("_before_adaptation", ", before", "--")):
            column = history.get(f"{prefix}{metric}{suffix}")
            if column is not None and np.isfinite(column).any():
                axes.plot(steps, column, style, color=color, ms=3, lw=1.5, label=name + when)
    if metric == "accuracy":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    elif metric == "mse":
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return _png(figure)


def draw_sweep(rows: Sequence[dict[str, Any]], key: str, xlabel: str, chosen: int) -> bytes:
    """A metric with its 95% intervals against one size of the protocol.

    Args:
        rows: Results of `evaluate_episodes`, in order.
        key: Key of the size in each row.
        xlabel: Label of the axis.
        chosen: The recipe's own size, which is marked.
    """
    metric = "mse" if "mse" in rows[0] else "accuracy"
    figure, axes = _chart(xlabel, "mean squared error" if metric == "mse" else "accuracy")
    places = range(len(rows))
    values = [row[metric] for row in rows]
    axes.errorbar(
        places, values, [row["ci95"] for row in rows], fmt="-o", color=BLUE, capsize=3, ms=4,
        label="after adaptation",
    )  # fmt: skip
    labels = [str(row[key]) for row in rows]
    axes.set_xticks(places, labels)
    if str(chosen) in labels:
        place = labels.index(str(chosen))
        axes.plot(place, values[place], "o", ms=10, mfc="none", mec=ORANGE, label="the recipe's")
    if metric == "accuracy":
        axes.set_ylim(top=1.0 + 0.05 * (1.0 - min(values)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.legend(fontsize=8)
    return _png(figure)


def draw_answers(episode: Answered) -> bytes:
    """One episode with its right and wrong predictions."""
    ways, shots = episode.support.shape[:2]
    columns = shots + episode.query.shape[1] + 1
    figure = Figure(figsize=(WIDTH, WIDTH * ways / columns + 0.9))
    draw_episode(figure, episode)
    return _png(figure)


def draw_confusion(confusion: Confusion) -> bytes:
    """The shares as a table of colours, with a picture of each class at its row and column."""
    count = len(confusion.names)
    figure = Figure(figsize=(WIDTH, WIDTH))
    axes = figure.add_axes((0.17, 0.17, 0.8, 0.8))
    axes.imshow(confusion.shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("predicted", fontsize=9, labelpad=38)
    axes.set_ylabel("shown", fontsize=9, labelpad=38)
    for row in range(count):
        for column in range(count):
            share = confusion.shares[row, column]
            if share >= 0.005:
                color = "white" if share > 0.5 else "black"
                axes.text(
                    column, row, f"{100 * share:.0f}", color=color, fontsize=9, ha="center",
                    va="center",
                )  # fmt: skip
    inches = 0.6 * 0.8 * WIDTH / max(count, 6)
    for place, image in enumerate(confusion.images):
        for at in ((-0.5, place), (place, count - 0.5)):
            offset = (-20, 0) if at[0] < 0 else (0, -20)
            thumbnail = _thumbnail(image, inches)
            axes.add_artist(
                AnnotationBbox(
                    thumbnail, at, offset, boxcoords="offset points", frameon=False,
                    annotation_clip=False,
                )
            )  # fmt: skip
            sign = (-36, 0) if at[0] < 0 else (0, -36)
            axes.annotate(
                str(place + 1), at, sign, textcoords="offset points", fontsize=8, color="#59636e",
                ha="center", va="center", annotation_clip=False,
            )  # fmt: skip
    return _png(figure)


def draw_features(view: FeatureView) -> bytes:
    """One point per image, one colour per class, and an image at the middle of each class."""
    first, second = view.explained
    figure, axes = _chart(
        f"first axis ({first:.0%} of the variance)",
        f"second axis ({second:.0%})",
        height=4.4,
    )
    for label, (image, color) in enumerate(zip(view.images, COLORS, strict=False)):
        points = view.points[view.labels == label]
        axes.scatter(points[:, 0], points[:, 1], s=14, color=color, alpha=0.75, linewidths=0)
        axes.add_artist(
            AnnotationBbox(
                _thumbnail(image, 0.2), points.mean(axis=0), pad=0.1, bboxprops={"ec": color}
            )
        )
    return _png(figure)


def draw_reliability(bins: Sequence[dict[str, float]]) -> bytes:
    """Accuracy against the largest probability, one point for each bin of `calibration`."""
    figure, axes = _chart("probability of the named class", "accuracy", height=4.2)
    total = sum(one["queries"] for one in bins)
    axes.plot((0, 1), (0, 1), color=GREY, lw=1)
    axes.scatter(
        [one["confidence"] for one in bins],
        [one["accuracy"] for one in bins],
        [12 + 400 * one["queries"] / total for one in bins],
        color=BLUE,
        alpha=0.75,
        linewidths=0,
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    return _png(figure)


def draw_let_through(found: UnknownClasses) -> bytes:
    """Images of unknown classes, and below each an image of the class that it was taken for."""
    count = len(found.images)
    figure = Figure(figsize=(WIDTH, 2 * WIDTH / max(count, 4) + 0.4), layout="constrained")
    grid = figure.subplots(2, max(count, 4), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for column, similarity in enumerate(found.similarities):
        for axes, images in zip(grid[:, column], (found.images, found.taken_for), strict=True):
            axes.imshow(images[column].squeeze(), cmap="gray", vmin=0, vmax=255)
        grid[1, column].set_title(f"{similarity:.2f}", fontsize=9)
    return _png(figure)


def draw_wave(wave: dict[str, Any]) -> bytes:
    """A regression: the points learned from, the truth, and the model before and after."""
    figure, axes = _chart("x", "y")
    axes.plot(wave["x"], wave["y"], color=GREY, lw=3, alpha=0.6, label="truth")
    axes.plot(wave["x"], wave["before"], "--", color=ORANGE, label="before")
    axes.plot(wave["x"], wave["after"], color=BLUE, label="after adaptation")
    axes.plot(wave["support_x"], wave["support_y"], "k^", ms=6, label="learned from")
    axes.legend(fontsize=8)
    return _png(figure)


def _thumbnail(image: np.ndarray, inches: float) -> OffsetImage:
    """An image with a width in inches, whatever its size in pixels."""
    pixels = image.squeeze()
    # The colour map is for grey images; matplotlib ignores it for others.
    thumbnail = OffsetImage(pixels / 255, zoom=72 * inches / pixels.shape[1], cmap="gray")
    thumbnail.image.set_clim(0, 1)
    return thumbnail
