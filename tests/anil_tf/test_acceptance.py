"""Thresholds from a table, and the column for none of these."""

import numpy as np
import pytest

from anil_tf.acceptance import add_none, choose_share, find_thresholds

TABLE = {
    "rates": [0.8, 0.9, 0.99],
    "shots": [1, 2, 10],
    "thresholds": [[0.70, 0.60, 0.40], [0.80, 0.72, 0.50], [0.90, 0.84, 0.60]],
}


def test_a_threshold_that_was_measured_is_found_again():
    for shots, row in zip(TABLE["shots"], TABLE["thresholds"], strict=True):
        found = [find_thresholds(TABLE, [shots], rate)[0] for rate in TABLE["rates"]]
        np.testing.assert_allclose(found, row)


def test_between_shares_a_threshold_is_linear():
    np.testing.assert_allclose(find_thresholds(TABLE, [1], 0.85), [0.65])


def test_between_shots_a_threshold_is_linear_in_one_over_shots():
    # 1/4 lies at 5/8 of the way from 1/2 to 1/10.
    np.testing.assert_allclose(find_thresholds(TABLE, [4], 0.9), [0.72 + 0.625 * 0.12])


def test_each_class_has_the_threshold_of_its_own_shots():
    np.testing.assert_allclose(find_thresholds(TABLE, [2, 1, 50], 0.9), [0.72, 0.60, 0.84])


@pytest.mark.parametrize("accept", [0.5, 0.999, float("nan")])
def test_a_share_beyond_the_table_is_rejected(accept):
    with pytest.raises(ValueError, match=r"accept must lie in 0.8..0.99. Received: "):
        find_thresholds(TABLE, [1], accept)


def test_the_share_to_accept_is_the_largest_that_still_tells_negatives_apart():
    def chosen(*resembled):
        resembled = np.array(resembled)
        return choose_share(TABLE, [1, 1], np.zeros(len(resembled), int), resembled)

    assert chosen(0.0, -0.2) == pytest.approx(0.99)  # unlike everything: accept the most
    assert chosen(0.55, 0.5, 0.54) == pytest.approx(0.92)  # where the threshold is 0.556
    assert chosen(0.95, 0.97) == pytest.approx(0.99)  # no threshold tells them apart


def test_an_image_is_judged_by_the_class_that_it_is_named():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]], np.float32)
    similarity = np.array([[0.7, 0.0], [0.5, 0.9], [0.9, 0.5]], np.float32)
    named = add_none(probabilities, similarity, np.array([0.6, 0.4]))
    expected = np.array([[0.9, 0.1, 0], [0, 0, 1], [0.2, 0.8, 0]], np.float32)
    np.testing.assert_array_equal(named, expected)
    assert named.dtype == np.float32
