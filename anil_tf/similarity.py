"""Similarity of two representations of the same inputs: CCA, SVCCA and linear CKA.

Rows are inputs, columns are neurons. The two representations may have different columns.
Activations of convolutions `[n, H, W, C]` become rows by `as_rows` (one row per position, one
neuron per channel, as SVCCA's authors do), or by a plain reshape to `[n, H * W * C]` (as CKA's
authors do).
"""

import numpy as np
import tensorflow as tf

# Directions below this share of the largest are rounding, not variation.
_RANK_TOLERANCE = 1e-6


def as_rows(activations: np.ndarray) -> np.ndarray:
    """Activations `[n, ..., C]` as `[n * positions, C]`."""
    return activations.reshape(-1, activations.shape[-1])


def cca(x: np.ndarray, y: np.ndarray) -> float:
    """Mean canonical correlation.

    With U_x and U_y orthonormal bases of the centred columns of x and y, the canonical correlations
    are the singular values of U_x' U_y. The mean is over as many of them as the smaller basis has
    dimensions. Invariant to any invertible linear map of the columns of either representation.

    Args:
        x: Floats `[rows, p]`.
        y: Floats `[rows, q]` for the same inputs.

    Returns:
        A number in 0..1; NaN if a representation is constant.

    Raises:
        ValueError: The arguments are not two matrices with equally many rows.

    References:
        Hotelling 1936; as a measure of networks Raghu et al. 2017, https://arxiv.org/abs/1706.05806
    """
    return svcca(x, y, variance=1.0)


def svcca(x: np.ndarray, y: np.ndarray, variance: float = 0.99) -> float:
    """Singular vector CCA: `cca` between the directions with most of the variance of each.

    Args:
        x: Floats `[rows, p]`.
        y: Floats `[rows, q]` for the same inputs.
        variance: Share of the sum of squared singular values to keep.

    Returns:
        A number in 0..1; NaN if a representation is constant.

    Raises:
        ValueError: The arguments are not two matrices with equally many rows.

    References:
        Raghu, Gilmer, Yosinski & Sohl-Dickstein, NeurIPS 2017, https://arxiv.org/abs/1706.05806
    """
    x, y = _check(x, y)
    if np.array_equal(x, y):
        return _similarity_to_itself(x)
    x, y = _centre(x), _centre(y)
    few_rows = len(x) <= max(x.shape[1], y.shape[1])
    inner = _inner_by_vectors if variance == 1 or few_rows else _inner_by_covariances
    products = inner(x, y, variance)
    dimensions = min(products.shape)
    if dimensions == 0:
        return float("nan")
    correlations = np.linalg.svd(products, compute_uv=False)
    return float(np.clip(correlations, 0.0, 1.0).sum() / dimensions)


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment, `|Y'X|^2 / (|X'X| |Y'Y|)` in Frobenius norms.

    Invariant to rotation and uniform scaling of the columns of either representation. Unlike `cca`,
    it is not invariant to other linear maps: directions with more variance count for more.

    Args:
        x: Floats `[rows, p]`.
        y: Floats `[rows, q]` for the same inputs.

    Returns:
        A number in 0..1; NaN if a representation is constant.

    Raises:
        ValueError: The arguments are not two matrices with equally many rows.

    References:
        Kornblith, Norouzi, Lee & Hinton, ICML 2019, https://arxiv.org/abs/1905.00414
    """
    x, y = _check(x, y)
    if np.array_equal(x, y):
        return _similarity_to_itself(x)
    x, y = _centre(x), _centre(y)
    if len(x) < max(x.shape[1], y.shape[1]):  # equal by the kernels of the rows, which are smaller
        left, right = _inner(x, x, rows=True), _inner(y, y, rows=True)
        shared = np.sum(left * right)
    else:
        left, right = _inner(x, x), _inner(y, y)
        shared = np.sum(np.square(_inner(y, x)))
    scale = np.linalg.norm(left) * np.linalg.norm(right)
    return float(shared / scale) if scale > 0 else float("nan")


def _check(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            "Two matrices [rows, columns] of the same rows are compared. "
            f"Received: {list(x.shape)} and {list(y.shape)}"
        )
    return x, y


def _similarity_to_itself(x: np.ndarray) -> float:
    return 1.0 if np.any(x != x[:1]) else float("nan")


def _centre(x: np.ndarray) -> np.ndarray:
    """A copy in float64, made first: a mean of mixed dtypes takes several times as long."""
    centred = x.astype(np.float64)
    centred -= centred.mean(axis=0)
    return centred


def _inner(x: np.ndarray, y: np.ndarray, rows: bool = False) -> np.ndarray:
    """Inner products of columns, or of rows.

    By TensorFlow: on a busy machine the threads of NumPy's BLAS wait for one another.
    """
    return tf.matmul(x, y, transpose_a=not rows, transpose_b=rows).numpy()


def _inner_by_vectors(x: np.ndarray, y: np.ndarray, variance: float) -> np.ndarray:
    """Inner products of the orthonormal bases of two centred representations, by their SVDs."""
    bases = []
    for side in (x, y):
        vectors, values, _ = np.linalg.svd(side, full_matrices=False)
        bases.append(vectors[:, : _count_directions(values, variance)])
    return bases[0].T @ bases[1]


def _inner_by_covariances(x: np.ndarray, y: np.ndarray, variance: float) -> np.ndarray:
    """The same by the eigenvectors of the small covariances: many times faster with many rows.

    Squaring costs no precision that matters here: the last direction kept has at least the share
    `(1 - variance) / columns` of the variance. With variance = 1 there is no such bound.
    """
    whitened = []
    for side in (x, y):
        squares, directions = (part.numpy() for part in tf.linalg.eigh(_inner(side, side)))
        values, directions = np.sqrt(np.maximum(squares[::-1], 0)), directions[:, ::-1]
        kept = _count_directions(values, variance)
        whitened.append(directions[:, :kept] / values[:kept])
    return whitened[0].T @ _inner(x, y) @ whitened[1]


def _count_directions(values: np.ndarray, variance: float) -> int:
    """How many of the singular values, largest first, hold this share of the variance."""
    if not values[0] > 0:
        return 0
    share = np.cumsum(np.square(values)) / np.sum(np.square(values))
    needed = int(np.searchsorted(share, variance)) + 1 if variance < 1 else len(values)
    rank = int(np.sum(values > _RANK_TOLERANCE * values[0]))
    return min(needed, rank)
