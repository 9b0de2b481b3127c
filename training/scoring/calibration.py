"""How honest the probabilities of a model are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from anil_tf.acceptance import Temperature


def calibration(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> dict[str, Any]:
    """How honest probabilities are.

    Args:
        logits: Logits `[Q, N]`.
        labels: Classes, integers `[Q]`.
        bins: Number of bins of equal width.

    Returns:
        `ece`, the expected calibration error: the mean difference between the largest probability
        and the accuracy, over bins of the largest probability (Guo et al. 2017);
        `negative_log_likelihood`, the mean of minus the logarithm of the probability of the class;
        and `reliability`, for each bin that has queries their number (`queries`), mean largest
        probability (`confidence`) and `accuracy`.
    """
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    largest = np.exp(logs.max(axis=1))
    right = logs.argmax(axis=1) == labels
    place = np.minimum((largest * bins).astype(int), bins - 1)
    reliability = [
        {
            "queries": int(np.sum(place == index)),
            "confidence": float(largest[place == index].mean()),
            "accuracy": float(right[place == index].mean()),
        }
        for index in np.unique(place)
    ]
    gaps = [bin["queries"] * abs(bin["confidence"] - bin["accuracy"]) for bin in reliability]
    return {
        "ece": sum(gaps) / len(labels),
        "negative_log_likelihood": float(-logs[np.arange(len(labels)), labels].mean()),
        "reliability": reliability,
    }


def fit_temperature(logits: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Temperature:
    """The temperature at which the largest probability is, in the mean, the accuracy.

    For each number of classes it is one of 401 from 0.01 to 100; a power law goes through them. The
    least negative log-likelihood, the usual choice (Guo et al. 2017), depends too much on the few
    queries that are hopeless: it makes all others unsure. Each array counts alike, however many
    queries it has.

    Args:
        logits: Arrays of logits `[Q, N]`, such as one for each number of ways and shots.
        labels: For each the classes, integers `[Q]`.
    """
    pairs = list(zip(logits, labels, strict=True))
    ways = sorted({part.shape[1] for part in logits})
    found = [_fit([pair for pair in pairs if pair[0].shape[1] == count]) for count in ways]
    if len(ways) == 1:
        return Temperature(found[0])
    power, start = np.polyfit(np.log(ways), np.log(found), 1)
    return Temperature(float(np.exp(start)), float(power))


def _fit(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    right = [np.sum(part.argmax(axis=1) == wanted) for part, wanted in pairs]
    # One right and one wrong query more: no finite temperature makes a model certain.
    accuracy = np.mean(
        [(n + 1) / (len(part) + 2) for n, (part, _) in zip(right, pairs, strict=True)]
    )
    temperatures = np.geomspace(0.01, 100, 401)
    confidence = [np.mean([_confidence(part / t) for part, _ in pairs]) for t in temperatures]
    return float(temperatures[np.argmin(np.abs(confidence - accuracy))])


def _confidence(logits: np.ndarray) -> float:
    """The mean of the largest probability."""
    logits = logits.astype(np.float64)
    return float(np.mean(1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)))
