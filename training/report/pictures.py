"""Pictures of episodes with their predictions, and of an analysis."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

RIGHT, WRONG = "#1a7f37", "#cf222e"


@dataclass(frozen=True)
class Answered:
    """An episode and the predictions for its queries.

    Attributes:
        title: Title of the picture.
        support: uint8 `[N, K, H, W, C]`.
        query: uint8 `[N, Q, H, W, C]`.
        answers: Predicted class of each query of each class, integers `[N, Q]`.
    """

    title: str
    support: np.ndarray
    query: np.ndarray
    answers: np.ndarray


def draw_episodes(episodes: Sequence[Answered], path: Path) -> None:
    """Draws each episode as a panel with one row per class.

    Support images are on the left, queries on the right: framed green where the prediction is
    right, red where it is wrong, with the number of the predicted class.

    Args:
        episodes: Episodes with the same ways, shots and queries.
        path: The PNG to write.
    """
    ways, shots = episodes[0].support.shape[:2]
    queries = episodes[0].query.shape[1]
    columns = shots + queries + 1
    figure = Figure(figsize=(0.55 * columns * len(episodes), 0.55 * ways + 1.0))
    panels = figure.subfigures(1, len(episodes), squeeze=False)
    for panel, episode in zip(panels[0], episodes, strict=True):
        draw_episode(panel, episode)
    figure.text(
        0.5,
        0.02,
        "left of each panel: the drawings it learned from; right: new drawings, green where the "
        "prediction is right, red with the row predicted instead",
        ha="center",
        fontsize=8,
    )
    figure.savefig(path, dpi=150, facecolor="white")


def draw_episode(panel: Figure | SubFigure, episode: Answered) -> None:
    """Draws one episode; see `draw_episodes`."""
    ways, shots = episode.support.shape[:2]
    queries = episode.query.shape[1]
    right = np.mean(episode.answers == np.arange(ways)[:, np.newaxis])
    panel.suptitle(f"{episode.title}\n{right:.0%} of {ways * queries} right", fontsize=9)
    # The empty column sets support and queries apart.
    widths = [1.0] * shots + [0.35] + [1.0] * queries
    grid = panel.add_gridspec(
        ways, shots + queries + 1, width_ratios=widths, top=0.8, bottom=0.1, left=0.09, right=0.98
    )
    for row in range(ways):
        for column in range(shots + queries + 1):
            if column == shots:
                continue
            axes = panel.add_subplot(grid[row, column])
            axes.set_xticks([])
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(str(row + 1), rotation=0, fontsize=8, labelpad=8, va="center")
            if column < shots:
                image, color = episode.support[row, column], "#8c959f"
            else:
                image = episode.query[row, column - shots - 1]
                answer = episode.answers[row, column - shots - 1]
                color = RIGHT if answer == row else WRONG
                if answer != row:
                    axes.text(
                        0.95,
                        0.02,
                        str(answer + 1),
                        color=WRONG,
                        fontsize=9,
                        fontweight="bold",
                        ha="right",
                        va="bottom",
                        transform=axes.transAxes,
                    )
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            for spine in axes.spines.values():
                spine.set_color(color)
                spine.set_linewidth(1.6)


def draw_analysis(figures: dict[str, Any], path: Path) -> None:
    """Draws an analysis: each layer before against after the inner loop, and freezing.

    Args:
        figures: As `anil_tf.training.analyze.analyze` returns them.
        path: The PNG to write.
    """
    panels = 2 if figures["freezing"] else 1
    # Below each other, so that a phone shows the text in its own size.
    figure = Figure(figsize=(3.6, 3.2 * panels), layout="constrained")
    upper, *below = figure.subplots(panels, squeeze=False)[:, 0]
    layers = list(figures["similarity"])
    for offset, (key, label) in zip(
        (-0.2, 0.2), (("svcca", "SVCCA"), ("cka", "linear CKA")), strict=True
    ):
        rows = figures["similarity"].values()
        heights = [row[key] or 0.0 for row in rows]  # an undefined similarity has no bar
        errors = [row[f"{key}_ci95"] or 0.0 for row in rows]
        positions = np.arange(len(layers)) + offset
        upper.bar(positions, heights, 0.38, yerr=errors, capsize=2, label=label)
    upper.set_xticks(range(len(layers)), layers, rotation=_turn(layers))
    upper.set_ylim(0, 1.05)
    upper.set_title("Before and after the inner loop", fontsize=10)
    upper.set_ylabel("similarity", fontsize=9)
    upper.legend(loc="lower left", fontsize=8)

    for axes in below:
        _draw_freezing(axes, figures)
    for axes in (upper, *below):
        axes.tick_params(labelsize=9)
    figure.savefig(path, dpi=213, facecolor="white")


def _draw_freezing(axes: Axes, figures: dict[str, Any]) -> None:
    rows = [
        *((f"{len(row['frozen'])} frozen", row) for row in figures["freezing"]),
        ("NIL", figures["nil"]),
    ]
    accuracies = [row["accuracy"] for _, row in rows]
    intervals = [row["ci95"] for _, row in rows]
    axes.errorbar(range(len(rows)), accuracies, intervals, fmt="o", capsize=3)
    axes.set_xticks(range(len(rows)), [name for name, _ in rows], rotation=_turn(rows))
    axes.set_ylim(0, 1.05)
    axes.axhline(1 / figures["ways"], color="#8c959f", linestyle=":", linewidth=1)
    axes.set_title("With the first layers frozen at test", fontsize=10)
    axes.set_ylabel(f"{figures['ways']}-way accuracy (dotted: chance)", fontsize=9)


def _turn(labels: Sequence[Any]) -> int:
    """Degrees by which labels are turned, so that they do not cover each other."""
    return 90 if len(labels) > 5 else 0
