"""None of these: the numbers of an evaluation, and thresholds that hold on other classes."""

import keras
import numpy as np
import pytest

from anil_tf import ANIL, ClassImages, EpisodeSampler
from anil_tf.acceptance import Temperature, find_thresholds
from anil_tf.training.keras_runtime import KerasRuntime
from anil_tf.training.scoring.calibration import calibration, fit_temperature
from anil_tf.training.scoring.open_set import (
    auroc,
    compare_known,
    evaluate_open_set,
    measure_acceptance,
)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    known, unknown = rng.integers(0, 9, 40), rng.integers(0, 7, 30)
    pairs = np.sign(known[:, np.newaxis] - unknown)
    assert auroc(known, unknown) == pytest.approx(np.mean((pairs + 1) / 2))


def test_known_and_unknown_images_are_counted_apart():
    resembled = np.array([0.9, 0.8, 0.7, 0.1, 0.75, 0.2])
    known = np.array([True, True, True, True, False, False])
    right = np.array([True, False, True, False, False, False])
    found = compare_known(resembled, np.full(6, 0.5), right, known)
    assert (found["known_accepted"], found["unknown_accepted"]) == (0.75, 0.5)
    assert found["accuracy_among_accepted"] == pytest.approx(2 / 3)
    assert found["auroc"] == pytest.approx(5 / 8)
    assert "accept" not in compare_known(resembled, None, right, known)


def test_probabilities_that_are_as_often_right_as_they_say_have_no_error():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (40_000, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random((40_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    assert calibration(logits, labels)["ece"] < 0.01
    assert calibration(3 * logits, labels)["ece"] > 0.1  # too sure
    expected = -np.log(probabilities[np.arange(40_000), labels]).mean()
    assert calibration(logits, labels)["negative_log_likelihood"] == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_makes_probabilities_honest(temperature):
    rng = np.random.default_rng(0)
    parts, labels = [], []
    for queries in (20_000, 5_000):
        logits = rng.normal(0, 2, (queries, 3))
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        labels.append((rng.random((queries, 1)) > probabilities.cumsum(axis=1)).sum(axis=1))
        parts.append(temperature * logits)
    found = fit_temperature(parts, labels)
    assert found == (pytest.approx(temperature, rel=0.05), 0)
    assert calibration(parts[0] / found.of(3), labels[0])["ece"] < 0.01


def test_the_temperature_follows_the_number_of_classes():
    rng = np.random.default_rng(0)
    parts, labels = [], []
    for ways in (2, 4, 8):
        logits = rng.normal(0, 2, (20_000, ways))
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        labels.append((rng.random((20_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1))
        parts.append(3 / ways * logits)  # as after one inner step
    scale, power = fit_temperature(parts, labels)
    assert (scale, power) == (pytest.approx(3, rel=0.1), pytest.approx(-1, abs=0.05))


@pytest.fixture(scope="module")
def model():
    """Features are the pixels: what is measured is the measuring."""
    backbone = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Rescaling(1 / 128, -1),
            keras.layers.UnitNormalization(),
        ]
    )
    model = ANIL(backbone, ways=3, head_init="shared", inner_lr=50.0, inner_steps=3)
    model.build({"support_x": (None, None, 4, 4, 1)})
    return model


def classes(seed, count=60):
    rng = np.random.default_rng(seed)
    middle = rng.uniform(0, 255, (count, 1, 4, 4, 1))
    images = (middle + rng.normal(0, 40, (count, 16, 4, 4, 1))).clip(0, 255).astype(np.uint8)
    return ClassImages.from_arrays(images.reshape(-1, 4, 4, 1), np.repeat(np.arange(count), 16))


@pytest.fixture(scope="module")
def table(model):
    sampler = EpisodeSampler(classes(0), ways=10, shots=10, queries=5)
    return measure_acceptance(model, sampler, episodes=150)


def test_more_shots_and_a_smaller_share_make_a_threshold_higher(table):
    thresholds = np.array(table["thresholds"])
    assert table["shots"] == [1, 2, 5, 10]
    assert (np.diff(thresholds, axis=0) > 0).all()
    assert (np.diff(thresholds, axis=1) < 0).all()


@pytest.mark.parametrize("shots", [1, 3, 10, (1, 10)])
def test_thresholds_hold_on_other_classes(model, table, shots):
    sampler = EpisodeSampler(classes(1), ways=6, shots=shots, queries=5)
    found = evaluate_open_set(KerasRuntime(model), sampler, episodes=100, acceptance=table)
    assert found["ways"] == 3 and found["accuracy"] > 0.8
    assert found["open_set"]["known_accepted"] == pytest.approx(0.95, abs=0.025)
    assert found["open_set"]["unknown_accepted"] < 0.5
    assert found["open_set"]["auroc"] > 0.9


@pytest.mark.parametrize("ways", [3, 8])
def test_the_temperature_holds_on_other_classes(model, table, ways):
    sampler = EpisodeSampler(classes(1), ways=2 * ways, shots=1, queries=5)
    scale, power = table["temperature"]
    unsure, honest = (
        evaluate_open_set(
            KerasRuntime(model, Temperature(times * scale, power)), sampler, episodes=100
        )
        for times in (3, 1)
    )
    assert honest["ece"] < 0.02 < 0.05 < unsure["ece"]
    assert honest["accuracy"] == unsure["accuracy"]


def test_a_head_with_a_column_for_each_class_has_one_temperature(model):
    per_class = ANIL(model.backbone, ways=3, head_init="per_class", inner_lr=50.0, inner_steps=3)
    per_class.build({"support_x": (None, None, 4, 4, 1)})
    sampler = EpisodeSampler(classes(0), ways=3, shots=2, queries=2)
    table = measure_acceptance(per_class, sampler, episodes=4)
    assert table["temperature"][1] == 0


def test_a_table_has_only_the_shots_that_the_sampler_draws(model):
    sampler = EpisodeSampler(classes(0), ways=3, shots=3, queries=2)
    table = measure_acceptance(model, sampler, episodes=4)
    assert table["shots"] == [1, 2]
    assert find_thresholds(table, [9], 0.95) == find_thresholds(table, [2], 0.95)
