"""A sheet of a data set's classes: those to train on, and those kept for validation and test."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from anil_tf.datasets.images import ClassImages, as_pictures

CLASSES, IMAGES, COLUMNS = 24, 5, 4  # classes per split, images per class, classes per row
_TITLES = {"train": "training", "val": "validation", "test": "test"}


def describe_classes(classes: ClassImages) -> str:
    """How many classes there are, and how many images each has."""
    fewest, most = int(classes.counts.min()), int(classes.counts.max())
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{len(classes.names)} classes, {each} images each"


def draw_contact_sheet(splits: dict[str, ClassImages], path: Path) -> None:
    """Draws the first images of some classes of each split, with their names.

    Args:
        splits: `train`, `val` and `test`.
        path: The PNG to write.
    """
    chosen = {
        split: np.linspace(0, len(classes.names) - 1, min(CLASSES, len(classes.names))).astype(int)
        for split, classes in splits.items()
    }
    rows = [-(-len(indices) // COLUMNS) for indices in chosen.values()]
    figure = Figure(figsize=(10, 0.72 * sum(rows) + 0.5 * len(rows)))
    heights = [0.5 + 0.72 * count for count in rows]
    panels = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, height, count, (split, indices) in zip(
        panels, heights, rows, chosen.items(), strict=True
    ):
        classes = splits[split]
        some = f", {len(indices)} of them" if len(indices) < len(classes.names) else ""
        title = f"{_TITLES[split]}: {describe_classes(classes)}{some}"
        panel.text(0.01, 1 - 0.12 / height, title, fontsize=10, weight="bold", va="top")
        grid = panel.add_gridspec(
            count, COLUMNS, top=1 - 0.55 / height, bottom=0.04 / height, left=0.01, right=0.99,
            wspace=0.04, hspace=0.45,
        )  # fmt: skip
        for place, index in enumerate(indices):
            axes = panel.add_subplot(grid[place // COLUMNS, place % COLUMNS])
            axes.imshow(_strip(as_pictures(classes.of(index))), cmap="gray", vmin=0, vmax=255)
            axes.set_anchor("W")
            axes.set_title(classes.names[index][:40], fontsize=7, loc="left", pad=2)
            axes.set_axis_off()
    figure.savefig(path, dpi=130, facecolor="white")


def _strip(images: np.ndarray) -> np.ndarray:
    """The first images side by side, uint8 `[H, W, C]` or `[H, W]`, as wide for every class."""
    height, width, channels = images.shape[1:]
    gap = max(1, width // 16)
    strip = np.full((height, IMAGES * (width + gap), channels), 255, np.uint8)
    for place, image in enumerate(images[:IMAGES]):
        strip[:, place * (width + gap) :][:, :width] = image
    return strip.squeeze(-1) if channels == 1 else strip
