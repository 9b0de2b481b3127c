"""What `verify` checks: calls of the signatures, and what the float64 reference returns."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from anil_tf.acceptance import UNDIVIDED, Temperature
from anil_tf.datasets.inputs import encode_pictures
from anil_tf.export.runtime.base import Adaptation
from anil_tf.export.verify import reference
from anil_tf.export.verify.episodes import ReferenceEpisodes

BOUND = 1e-5
END_TO_END_BOUND = 1e-4  # rounding in the features passes through all of adaptation
INT8_BOUND = 0.5  # of quantized features, by `measure_rows`: a wrong scale, not rounding
# At too high a learning rate, gradient descent amplifies rounding without limit. The last bit of
# the inputs then changes the outputs by more than the bound. A float32 runtime is allowed this
# multiple of that change.
LAST_BIT_SLACK = 10.0
NUDGES = 4
LONG = 10  # adapting for so many times longer than in training must not drift either
TINY = 1e-30
CHAOS = 1e-2  # a last bit that decides this much leaves nothing to compare

Arrays = dict[str, np.ndarray]


class Case(NamedTuple):
    """A call of one signature, and what it must return.

    The outputs are grouped by unit, and a difference is relative to the largest value of its
    group. The bias is in the group of the losses: both are logarithms of probabilities. A balanced
    support set leaves the bias near zero, so relative to itself it would be all rounding.
    """

    check: str
    signature: str
    inputs: dict[str, Any]
    expected: tuple[Arrays, ...]
    bound: float = BOUND


def measure(outputs: Arrays, expected: tuple[Arrays, ...]) -> float:
    """The largest difference of any output, relative to the largest value of its group.

    Args:
        outputs: What a runtime returned, by name.
        expected: What it should have returned, grouped by unit.

    Raises:
        ValueError: A name or a shape differs, or a value is not finite.
    """
    names = {name for group in expected for name in group}
    if set(outputs) != names:
        raise ValueError(f"outputs are {sorted(outputs)} instead of {sorted(names)}")
    worst = 0.0
    for group in expected:
        scale = max(float(np.abs(value).max()) for value in group.values()) or 1.0
        for name, value in group.items():
            output = np.asarray(outputs[name])
            if output.shape != value.shape:
                raise ValueError(f"{name} has shape {output.shape} instead of {value.shape}")
            if not np.isfinite(output).all():
                raise ValueError(f"{name} has values that are not finite")
            worst = max(worst, float(np.abs(output - value).max()) / scale)
    return worst


def measure_rows(outputs: Arrays, expected: tuple[Arrays, ...]) -> float:
    """The largest difference of a row, in length, relative to the length of the expected row.

    For quantized features: their rounding spreads over all values of a row, so that the length of
    the difference says more about predictions than one value does.

    Args:
        outputs: What a runtime returned, by name.
        expected: What it should have returned, grouped by unit.

    Raises:
        ValueError: A name or a shape differs, or a value is not finite.
    """
    measure(outputs, expected)  # checks names, shapes and values
    lengths = np.linalg.norm
    return max(
        float(np.max(lengths(outputs[name] - rows, axis=-1) / (lengths(rows, axis=-1) + TINY)))
        for group in expected
        for name, rows in group.items()
    )


def list_cases(
    episodes: ReferenceEpisodes,
    rate: float,
    steps: int,
    balanced: bool = True,
    temperature: Temperature = UNDIVIDED,
) -> Iterator[Case]:
    """The cases: every signature on every episode, and the edges of `adapt`.

    Args:
        episodes: Episodes of the bundle.
        rate: Learning rate of the bundle's inner loop.
        steps: Steps of the bundle's inner loop.
        balanced: Whether every class counts alike, as in `Manifest.balanced`.
        temperature: Temperature of the bundle's probabilities.
    """
    v = episodes
    head = {"kernel": v.kernel, "bias": v.bias}
    adapting = functools.partial(adapt_case, head=head, rate=rate, steps=steps, balanced=balanced)
    yield Case("initial_head", "initial_head", {"ways": v.bias.size}, (head,))
    for episode, labels in enumerate(v.support_labels):
        images = v.support_image[episode], v.query_image[episode]
        support, query = v.support_features[episode], v.query_features[episode]
        yield Case(
            "features",
            "features",
            {"image": np.concatenate(images)},
            ({"features": np.concatenate([support, query])},),
            max(BOUND, LAST_BIT_SLACK * float(v.rounding)),
        )
        if v.support_image.dtype == np.uint8 and v.support_image.shape[-1] in (1, 3):
            yield Case(
                "features, from files",
                "features_encoded",
                {"encoded": encode_pictures(np.concatenate(images))},
                ({"features": np.concatenate([support, query])},),
                max(BOUND, LAST_BIT_SLACK * float(v.rounding)),
            )
        # Adaptation itself is judged apart from the features: from the same float32 ones.
        rows = support.astype(np.float32)
        for count in (steps, 0):
            yield adapting(f"adapt, {count} steps", rows, labels, steps=count)
        long = adapting(f"adapt, {LONG * steps} steps", rows, labels, steps=LONG * steps)
        if long.bound < CHAOS:
            yield long
        yield adapting("adapt, unequal classes", *_unequal(v, episode))
        padded_rows = np.pad(rows, [(0, 2), (0, 0)], constant_values=np.nan)
        padded_labels = np.append(labels, [-1, v.bias.size])
        yield adapting("adapt, padding rows", padded_rows, padded_labels)
        adapt = functools.partial(reference.adapt, balanced=balanced)
        adapted = adapt(rows, labels, v.kernel, v.bias, rate, steps)
        yield similarity_case("similarity", query.astype(np.float32), rows, labels, v.bias.size)
        yield similarity_case(
            "similarity, padding rows",
            query.astype(np.float32),
            padded_rows,
            np.where(padded_labels == 0, -1, padded_labels),  # a class without a row
            v.bias.size,
        )
        yield _predict(query.astype(np.float32), adapted, temperature)
        yield _adapt_and_predict(
            images,
            labels,
            (support, query),
            head,
            rate,
            steps,
            balanced,
            temperature,
            float(v.rounding),
        )


def _unequal(v: ReferenceEpisodes, episode: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels of an episode with 1, 2, 3, ... rows of its classes, and 1 again after."""
    rows = np.concatenate([v.support_features[episode], v.query_features[episode]])
    labels = np.concatenate([v.support_labels[episode], v.query_labels[episode]])
    most = np.bincount(labels).min()
    places = (np.flatnonzero(labels == label) for label in np.unique(labels))
    kept = np.concatenate([found[: 1 + place % most] for place, found in enumerate(places)])
    return rows[kept].astype(np.float32), labels[kept]


def adapt_case(
    check: str,
    features: np.ndarray,
    labels: np.ndarray,
    head: Arrays,
    rate: float,
    steps: int,
    balanced: bool = True,
) -> Case:
    """A call of `adapt` from a head (`kernel` and `bias`), and what it must return."""

    def expected(features: np.ndarray, dtype: type[np.floating]) -> tuple[Arrays, ...]:
        adapted = reference.adapt(
            features, labels, head["kernel"], head["bias"], rate, steps, dtype, balanced
        )
        return (
            {"adapted_kernel": adapted.kernel},
            {
                "adapted_bias": adapted.bias,
                "initial_loss": np.asarray(adapted.initial_loss),
                "final_loss": np.asarray(adapted.final_loss),
            },
            {"rows_used": np.asarray(adapted.rows_used)},
        )

    inputs = {"features": features, "labels": labels, **head, "learning_rate": rate, "steps": steps}
    exact = expected(features, np.float64)
    # A product of two rows is a sum that float32 rounds at the size of the rows, not of a value.
    used = features[np.isin(labels, np.arange(head["bias"].size))]
    rounding = float(np.finfo(np.float32).eps / 2 * np.linalg.norm(used, axis=1).max(initial=0.0))
    nudged = (expected(rows, np.float32) for rows in _nudge(features, rounding))
    return Case(check, "adapt", inputs, exact, _loosen(BOUND, exact, nudged))


def similarity_case(
    check: str, features: np.ndarray, rows: np.ndarray, labels: np.ndarray, ways: int
) -> Case:
    """A call of `similarity`, and what it must return."""
    expected = reference.similarity(features, rows, labels, ways)
    inputs = {
        "features": features,
        "support_features": rows,
        "support_labels": labels,
        "ways": ways,
    }
    return Case(check, "similarity", inputs, ({"similarity": expected},))


def _predict(features: np.ndarray, adapted: Adaptation, temperature: Temperature) -> Case:
    kernel, bias = adapted.kernel.astype(np.float32), adapted.bias.astype(np.float32)

    def expected(features: np.ndarray, dtype: type[np.floating]) -> tuple[Arrays, ...]:
        logits, probabilities = reference.predict(features, kernel, bias, dtype, temperature)
        return ({"logits": logits}, {"probabilities": probabilities})

    exact = expected(features, np.float64)
    nudged = (expected(rows, np.float32) for rows in _nudge(features))
    inputs = {"features": features, "kernel": kernel, "bias": bias}
    return Case("predict", "predict", inputs, exact, _loosen(BOUND, exact, nudged))


def _adapt_and_predict(
    images: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    features: tuple[np.ndarray, np.ndarray],
    head: Arrays,
    rate: float,
    steps: int,
    balanced: bool,
    temperature: Temperature,
    rounding: float,
) -> Case:
    support, query = features

    def expected(support: np.ndarray, dtype: type[np.floating]) -> tuple[Arrays, ...]:
        adapted = reference.adapt(
            support, labels, head["kernel"], head["bias"], rate, steps, dtype, balanced
        )
        kernel, bias = adapted.kernel, adapted.bias
        _, probabilities = reference.predict(query, kernel, bias, dtype, temperature)
        return ({"probabilities": probabilities},)

    exact = expected(support, np.float64)
    size = rounding * np.abs(support).max()
    nudged = (expected(rows, np.float32) for rows in _nudge(support, size))
    return Case(
        "adapt_and_predict",
        "adapt_and_predict",
        {"support_image": images[0], "support_labels": labels, "query_image": images[1]},
        exact,
        _loosen(END_TO_END_BOUND, exact, nudged),
    )


def _nudge(features: np.ndarray, size: float = 0.0) -> Iterator[np.ndarray]:
    """The features as float32, each value moved up or down, in a few random patterns.

    Each value moves to the next float32, and by `size` more.
    """
    rounded = features.astype(np.float32)
    for seed in range(NUDGES):
        sign = np.where(np.random.default_rng(seed).random(rounded.shape) < 0.5, 1, -1)
        moved = rounded + np.float32(size) * sign.astype(np.float32)
        yield np.nextafter(moved, np.copysign(np.float32(np.inf), sign, dtype=np.float32))


def _loosen(bound: float, exact: tuple[Arrays, ...], nudged: Iterator[tuple[Arrays, ...]]) -> float:
    """The bound, or what the last bit of the features decides where that is more."""
    outputs = ({name: v for group in groups for name, v in group.items()} for groups in nudged)
    return max(bound, LAST_BIT_SLACK * max(measure(output, exact) for output in outputs))
