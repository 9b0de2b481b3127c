"""`ClassImages`: the images of several classes, or other data of them, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassImages:
    """Images grouped by class.

    Attributes:
        images: uint8 `[n, H, W, C]`, or float32 `[n, ...]` of other data; the images of class 0,
            then those of class 1, ...
        counts: int64 `[classes]`, how many each has.
        names: One name per class.
    """

    images: np.ndarray
    counts: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def from_arrays(
        cls, images: np.ndarray, labels: np.ndarray, names: Sequence[str] | None = None
    ) -> "ClassImages":
        """Groups labelled images.

        Args:
            images: uint8 `[n, H, W, C]` (or `[n, H, W]` for grey).
            labels: Integers `[n]`.
            names: Name of each label; the labels themselves by default. Labels without an image
                are dropped.

        Raises:
            ValueError: Shapes or dtypes do not fit.
        """
        images, labels = np.asarray(images), np.asarray(labels)
        if images.ndim == 3:
            images = images[..., np.newaxis]
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                "images must be uint8 [n, H, W, C] with pixels from 0 to 255. "
                f"Received: {images.dtype} {list(images.shape)}"
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"labels must be integers [{len(images)}], one an image. "
                f"Received: {labels.dtype} {list(labels.shape)}"
            )
        present, counts = np.unique(labels, return_counts=True)
        if names is not None and len(present) and (present[0] < 0 or present[-1] >= len(names)):
            raise ValueError(
                f"labels must lie in 0..{len(names) - 1}. Received: {present[0]}..{present[-1]}"
            )
        order = np.argsort(labels, kind="stable")
        label_names = present if names is None else [names[label] for label in present]
        return cls(images[order], counts.astype(np.int64), tuple(map(str, label_names)))

    @property
    def starts(self) -> np.ndarray:
        """int64 `[classes]`: where each class begins in `images`."""
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)

    def of(self, index: int) -> np.ndarray:
        """The images of one class, uint8 `[count, H, W, C]`."""
        start = self.starts[index]
        return self.images[start : start + self.counts[index]]

    def select(self, indices: Sequence[int]) -> "ClassImages":
        """Some of the classes, in the order given."""
        return ClassImages(
            np.concatenate([self.of(index) for index in indices]),
            self.counts[list(indices)],
            tuple(self.names[index] for index in indices),
        )


def as_pictures(images: np.ndarray) -> np.ndarray:
    """Images to look at: those of windows show time to the right and one row per channel.

    Args:
        images: uint8 `[..., H, W, C]`, which are returned as they are, or float32 `[..., T, C]`.

    Returns:
        uint8 `[..., H, W, C]`. A window's smallest value is black, its largest white.
    """
    if images.dtype == np.uint8:
        return images
    rows = np.swapaxes(images, -1, -2)
    least = rows.min(axis=(-1, -2), keepdims=True)
    span = np.maximum(rows.max(axis=(-1, -2), keepdims=True) - least, 1e-30)
    channels, moments = rows.shape[-2:]
    tall = np.repeat(rows, max(1, moments // (2 * channels)), axis=-2)
    return (255 * (tall - least) / span).round().astype(np.uint8)[..., np.newaxis]
