"""Similarity of representations, against the definitions written another way."""

import numpy as np
import pytest

from anil_tf.similarity import as_rows, cca, linear_cka, svcca


def matrices(rows=60, p=5, q=7, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, p)) @ rng.normal(size=(p, p)) + rng.normal(size=p)
    y = x @ rng.normal(size=(p, q)) + 2 * rng.normal(size=(rows, q))
    return x, y, rng


def cca_by_covariances(x, y):
    """Squared canonical correlations are the eigenvalues of Sxx^-1 Sxy Syy^-1 Syx."""
    joint = np.cov(x, y, rowvar=False)
    p = x.shape[1]
    xx, xy, yy = joint[:p, :p], joint[:p, p:], joint[p:, p:]
    product = np.linalg.solve(xx, xy) @ np.linalg.solve(yy, xy.T)
    squares = np.sort(np.linalg.eigvals(product).real)[::-1][: min(p, y.shape[1])]
    return np.sqrt(np.clip(squares, 0, 1)).mean()


def principal_components(x, variance):
    """Scores on the leading eigenvectors of the covariance that explain this share of it."""
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = 1
    while values[:kept].sum() < variance * values.sum():
        kept += 1
    return x @ vectors[:, :kept]


def cka_by_hsic(x, y):
    """Inner product of the centred kernels over their lengths."""
    centring = np.eye(len(x)) - 1 / len(x)
    left, right = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    return np.trace(left @ right) / np.sqrt(np.trace(left @ left) * np.trace(right @ right))


@pytest.mark.parametrize("seed", range(3))
def test_they_agree_with_their_definitions(seed):
    x, y, _ = matrices(seed=seed)
    assert cca(x, y) == pytest.approx(cca_by_covariances(x, y), abs=1e-8)
    reduced = principal_components(x, 0.9), principal_components(y, 0.9)
    assert reduced[1].shape[1] < y.shape[1]
    assert svcca(x, y, 0.9) == pytest.approx(cca_by_covariances(*reduced), abs=1e-8)
    assert linear_cka(x, y) == pytest.approx(cka_by_hsic(x, y), abs=1e-8)
    few = slice(None, 4)  # fewer rows than columns: the other form of CKA
    assert linear_cka(x[few], y[few]) == pytest.approx(cka_by_hsic(x[few], y[few]), abs=1e-8)


def test_what_they_are_invariant_to():
    x, y, rng = matrices()
    rotation = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    for measure in (cca, svcca, linear_cka):
        assert measure(x, 3 * y @ rotation + 1) == pytest.approx(measure(x, y), abs=1e-8)
    stretch = np.diag(10.0 ** np.linspace(-1, 1, 7))
    assert cca(x, y @ stretch) == pytest.approx(cca(x, y), abs=1e-8)
    assert abs(linear_cka(x, y @ stretch) - linear_cka(x, y)) > 0.01


@pytest.mark.parametrize("measure", [cca, svcca, linear_cka])
def test_alike_is_one_and_independent_is_little(measure):
    x, _, rng = matrices(rows=2000)
    assert measure(x, x) == pytest.approx(1, abs=1e-8)
    assert measure(x, rng.normal(size=(2000, 7))) < 0.1


def test_the_covariance_gives_what_the_svd_of_all_rows_gives():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(64, 64)) * np.geomspace(1, 1e-4, 64)
    x = np.maximum(rng.normal(size=(900, 64)) @ spread, 0).astype(np.float32)
    y = np.maximum(x + 0.1 * rng.normal(size=x.shape) @ spread, 0).astype(np.float32)
    # Scores on the right singular vectors, by an SVD of all rows; CCA by QR.
    bases = []
    for side in (x, y):
        centred = side - side.mean(axis=0, dtype=np.float64)
        _, values, vectors = np.linalg.svd(centred, full_matrices=False)
        kept = np.cumsum(values**2) < 0.99 * np.sum(values**2)
        bases.append(np.linalg.qr(centred @ vectors[: kept.sum() + 1].T)[0])
    expected = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()
    assert 0.5 < expected < 0.999
    assert svcca(x, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("measure", [cca, svcca, linear_cka])
def test_equal_arrays_are_not_computed(measure, monkeypatch):
    x, _, _ = matrices()

    def never(*args):
        raise AssertionError("equal arrays were computed")

    monkeypatch.setattr("anil_tf.similarity._centre", never)
    assert measure(x, x.copy()) == 1.0
    assert np.isnan(measure(np.ones((9, 2)), np.ones((9, 2))))


@pytest.mark.parametrize("measure", [cca, svcca, linear_cka])
def test_edges(measure):
    x, y, _ = matrices()
    assert np.isnan(measure(np.ones((60, 3)), y))
    dead = np.hstack([x, np.zeros((60, 2))])  # neurons that never fire
    assert measure(dead, y) == pytest.approx(measure(x, y), abs=1e-8)
    with pytest.raises(ValueError, match=r"Received: \[60, 5\] and \[59, 7\]"):
        measure(x, y[1:])


def test_each_position_of_a_convolution_is_a_row():
    activations = np.arange(2 * 3 * 3 * 4).reshape(2, 3, 3, 4)
    rows = as_rows(activations)
    assert rows.shape == (18, 4)
    np.testing.assert_array_equal(rows[4], activations[0, 1, 1])
