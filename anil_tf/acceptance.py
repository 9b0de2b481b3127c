"""None of these: which images resemble no learned class, by a table of validation episodes.

An image belongs to the class that the head names if its similarity to that class (the function
`similarity` of a bundle) reaches a threshold. The threshold depends on two numbers: the share of
images of known classes to accept, and the number of images that the class was learned from. A table
holds the thresholds that were measured. This file needs NumPy alone, since `adapt.py` contains it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

NONE = "none of these"

# The shares, shots and ways of a table that training measures.
RATES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
SHOTS = (1, 2, 5, 10)
WAYS = (2, 5, 10, 20)


class Temperature(NamedTuple):
    """Divisor of the logits that makes probabilities honest: `scale * ways**power`.

    The logits of one inner step are in proportion to 1/ways, since the support loss is a mean over
    classes: their power is near -1. Many steps undo this: power is near 0.
    """

    scale: float = 1.0
    power: float = 0.0

    def of(self, ways: int) -> float:
        """The divisor for this number of classes."""
        return self.scale * ways**self.power


UNDIVIDED = Temperature()  # probabilities are the softmax of the logits


def find_thresholds(
    table: Mapping[str, Any], counts: Sequence[int] | np.ndarray, accept: float
) -> np.ndarray:
    """The least similarity of an image that is accepted, for each class.

    Between measured shares the threshold is linear in the share, between measured shots in 1/shots:
    the mean of n features errs by a share of 1/n. More shots than measured count as the most.

    Args:
        table: `rates` `[R]` and `shots` `[S]`, both increasing, and `thresholds` `[S, R]`.
        counts: Number of images that each class was learned from, integers `[N]`.
        accept: Share of the images of known classes to accept, in 0..1.

    Returns:
        Thresholds float64 `[N]`.

    Raises:
        ValueError: The table does not reach to this share.
    """
    rates = table["rates"]
    if not rates[0] <= accept <= rates[-1]:
        raise ValueError(f"accept must lie in {rates[0]:g}..{rates[-1]:g}. Received: {accept:g}")
    at_shots = [np.interp(accept, rates, row) for row in table["thresholds"]]
    return np.interp(-1 / np.maximum(counts, 1), -1 / np.array(table["shots"]), at_shots)


def choose_share(
    table: Mapping[str, Any],
    counts: Sequence[int] | np.ndarray,
    named: np.ndarray,
    resembled: np.ndarray,
) -> float:
    """The share of images of known classes to accept that tells them best from given negatives.

    It has the largest sum of two shares: the known images that are accepted, by the table, and the
    negatives that are not (Youden 1950).

    Args:
        table: See `find_thresholds`.
        counts: Number of images that each class was learned from, integers `[N]`.
        named: Class that the head names for each negative, integers `[M]`.
        resembled: Similarity of each negative to that class, `[M]`.
    """
    shares = np.arange(round(100 * table["rates"][0]), round(100 * table["rates"][-1]) + 1) / 100
    rejected = [
        np.mean(resembled < find_thresholds(table, counts, share)[named]) for share in shares
    ]
    sums = shares + rejected
    return float(shares[len(sums) - 1 - np.argmax(sums[::-1])])  # of equals, the largest share


def add_none(
    probabilities: np.ndarray, similarity: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """Probabilities with one more column, the last: whether an image is none of the classes.

    Args:
        probabilities: Probabilities of the classes, `[B, N]`.
        similarity: Similarities to the classes, `[B, N]`.
        thresholds: Least similarity to each class, `[N]`.

    Returns:
        `[B, N + 1]`. Where an image is too unlike its most probable class, the last column is 1 and
        the others are 0; otherwise the last column is 0.
    """
    named = probabilities.argmax(axis=1)
    resembled = np.take_along_axis(similarity, named[:, np.newaxis], axis=1)
    none = resembled < thresholds[named, np.newaxis]
    return np.concatenate([np.where(none, 0, probabilities), none], axis=1, dtype=np.float32)
