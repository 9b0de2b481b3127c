"""`verification.npz`: the episodes that every runtime of a bundle is checked on.

The export writes it, since that has the Keras model to compute features in float64. Reading it
needs NumPy alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anil_tf.export import layout
from anil_tf.support.untrusted import read_arrays


class ReferenceEpisodes(NamedTuple):
    """E episodes of N classes, M support and Q query images, and the head they start from.

    Attributes:
        support_image: `[E, M, H, W, C]`, in the bundle's image dtype.
        support_labels: int32 `[E, M]`.
        query_image: `[E, Q, H, W, C]`.
        query_labels: int32 `[E, Q]`.
        support_features: float64 `[E, M, D]`, by the backbone in float64.
        query_features: float64 `[E, Q, D]`.
        kernel: The initial head's kernel, float32 `[D, N]`.
        bias: Its bias, float32 `[N]`.
        rounding: What float32 decides of the features, float64 `[]`: the largest difference of the
            backbone in float32 to itself in float64, relative to the largest feature.
    """

    support_image: np.ndarray
    support_labels: np.ndarray
    query_image: np.ndarray
    query_labels: np.ndarray
    support_features: np.ndarray
    query_features: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    rounding: np.ndarray = np.zeros(())  # of bundles that were made before it was measured

    @property
    def ways(self) -> int:
        """Number of classes of an episode, N."""
        return self.bias.size

    def each(self) -> Iterator[dict[str, np.ndarray]]:
        """The episodes one by one, by the names that samplers use: `support_x` and so on."""
        for support_x, support_y, query_x, query_y in zip(*self[:4], strict=True):
            yield {
                "support_x": support_x,
                "support_y": support_y,
                "query_x": query_x,
                "query_y": query_y,
            }

    def fit(self, ways: int, rows: int) -> "ReferenceEpisodes":
        """The episodes with fewer classes, where a runtime has no space for all of them.

        Args:
            ways: Number of classes that there is space for.
            rows: Number of support rows that there is space for; no check has more than three per
                class, or two where there are two classes.
        """
        ways = min(ways, max(2, rows // 3))
        if ways >= self.ways:
            return self
        support, query = self.support_labels[0] < ways, self.query_labels[0] < ways
        return self._replace(
            support_image=self.support_image[:, support],
            support_labels=self.support_labels[:, support],
            query_image=self.query_image[:, query],
            query_labels=self.query_labels[:, query],
            support_features=self.support_features[:, support],
            query_features=self.query_features[:, query],
            kernel=self.kernel[:, :ways],
            bias=self.bias[:ways],
        )

    def write(self, bundle: Path) -> None:
        """Write `verification.npz` into a bundle's folder."""
        np.savez_compressed(bundle / layout.VERIFICATION, **self._asdict())

    @classmethod
    def read(cls, bundle: Path) -> "ReferenceEpisodes":
        """Read `verification.npz` from a bundle's folder."""
        arrays = read_arrays(bundle / layout.VERIFICATION)
        if arrays.keys() | cls._field_defaults.keys() != set(cls._fields):
            raise ValueError(
                f"{layout.VERIFICATION} must hold {cls._fields}. Received: {sorted(arrays)}"
            )
        return cls(**arrays)


class EpisodeRows(NamedTuple):
    """Rows of labelled examples, arranged in episodes.

    Attributes:
        support: Row numbers `[E, M]`.
        labels: The support's classes `0..N-1`, int32 `[E, M]`.
        query: Row numbers `[E, Q]`.
        query_labels: The queries' classes, int32 `[E, Q]`.
        ways: N.
    """

    support: np.ndarray
    labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray
    ways: int


def choose_episodes(label: np.ndarray, ways: int, shots: int = 2, queries: int = 2) -> EpisodeRows:
    """One or two disjoint episodes from a few labelled examples, always the same ones.

    Args:
        label: Class of each example, integers `[n]`.
        ways: Classes of an episode; fewer are taken if there are fewer.
        shots: Support examples a class.
        queries: Query examples a class.

    Returns:
        The episodes; a second one where there are enough classes.

    Raises:
        ValueError: Fewer than two classes have `shots + queries` examples.
    """
    needed = shots + queries
    rows = [np.flatnonzero(label == name)[:needed] for name in np.unique(label)]
    rows = [found for found in rows if len(found) == needed]
    ways = min(ways, len(rows))
    if ways < 2:
        raise ValueError(
            f"Verification needs two classes of {needed} examples. Received: {len(rows)}"
        )
    episodes = 2 if len(rows) >= 2 * ways else 1
    chosen = np.array(rows[: episodes * ways]).reshape(episodes, ways, needed)
    names = np.arange(ways, dtype=np.int32)
    return EpisodeRows(
        support=chosen[:, :, :shots].reshape(episodes, -1),
        labels=np.tile(names.repeat(shots), (episodes, 1)),
        query=chosen[:, :, shots:].reshape(episodes, -1),
        query_labels=np.tile(names.repeat(queries), (episodes, 1)),
        ways=ways,
    )
