"""A backbone in another floating-point precision."""

from typing import Any

import keras
import numpy as np

from anil_tf.support.keras_private import flatten_layers

# Largest differences of a copy's features, relative to the largest feature. In another precision
# they only detect wrong copies, not rounding; 16-bit floats have 8 or 11 bits.
BATCH = 8
SAME_BOUND, PRECISION_BOUND, HALF_BOUND = 1e-5, 1e-3, 0.1


def with_precision(backbone: keras.Model, dtype: str) -> keras.Model:
    """A copy of a backbone that computes in one dtype throughout.

    float32 for export: a model trained in mixed precision computes in float16 on an accelerator,
    which few edge runtimes have. float64 for the reference that every runtime is compared with.

    Args:
        backbone: A Keras model with `get_config`, as every model that can be saved has.
        dtype: `"float32"` or `"float64"`.

    Returns:
        The same architecture and state.
    """
    copy = type(backbone).from_config(_replace_dtypes(backbone.get_config(), dtype))
    if not copy.built:
        copy.build(backbone.input_shape)
    # As from a file, not by `set_weights`: layers derive state from their weights when they are
    # loaded, such as `Normalization` its mean and variance after `adapt`.
    for layer, copied in zip(flatten_layers(backbone), flatten_layers(copy), strict=True):
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        copied.load_own_variables(store)
    return copy


def check_copies(
    backbone: keras.Model, exported: keras.Model, precise: keras.Model, images: np.ndarray
) -> float:
    """Compares the copies of a backbone with the backbone itself.

    Args:
        backbone: The model that was trained.
        exported: Its copy in float32.
        precise: Its copy in float64.
        images: `[n, ...]`, as the backbone takes them.

    Returns:
        The effect of rounding in float32: the largest difference of the features to float64,
        relative to the largest feature.

    Raises:
        ValueError: A copy computes something else, because a layer has state outside its
            configuration and weights. The layer is named.
    """
    if any("16" in layer.compute_dtype for layer in backbone.layers):
        _check(backbone, exported, images, HALF_BOUND)
        return _check(exported, precise, images, PRECISION_BOUND)
    _check(backbone, exported, images, SAME_BOUND)
    return _check(backbone, precise, images, PRECISION_BOUND)


def compute_features(backbone: keras.Model, images: np.ndarray) -> np.ndarray:
    """Features float64 `[n, D]` of images `[n, ...]`, some at a time: float64 needs much memory."""
    starts = range(0, len(images), BATCH)
    rows = [backbone(images[start : start + BATCH], training=False) for start in starts]
    return np.concatenate([np.asarray(batch, np.float64) for batch in rows])


def _check(backbone: keras.Model, copy: keras.Model, images: np.ndarray, bound: float) -> float:
    found = _difference(backbone, copy, images)
    if found <= bound:
        return found
    raise ValueError(
        f"A copy of the backbone answers differently, by {found:.2g} of the largest feature"
        f"{_find_layer(backbone, copy, images, bound)}. Export needs layers whose state is all in "
        "get_config and in weights"
    )


def _difference(backbone: keras.Model, copy: keras.Model, images: np.ndarray) -> float:
    expected = compute_features(backbone, images)
    answers = compute_features(copy, images.astype(copy.compute_dtype))
    return float(np.abs(answers - expected).max() / (np.abs(expected).max() or 1.0))


def _find_layer(backbone: keras.Model, copy: keras.Model, images: np.ndarray, bound: float) -> str:
    """The first layer of a Functional model that differs, in words; empty if it is not found."""
    for layer, other in zip(backbone.layers, copy.layers, strict=True):
        try:
            part = keras.Model(backbone.input, layer.output)
            other_part = keras.Model(copy.input, other.output)
            differs = _difference(part, other_part, images) > bound
        except (AttributeError, TypeError, ValueError):  # not Functional, or not one output
            continue
        if differs:
            return f", from the layer {layer.name!r} ({type(layer).__name__}) on"
    return ""


def _replace_dtypes(config: Any, dtype: str) -> Any:
    """A copy of a Keras configuration in which every dtype policy is `dtype`.

    Constant arrays of integers, such as the indices that an operation takes, stay integers.
    """
    if isinstance(config, dict):
        is_constant = config.get("class_name") in ("__numpy__", "__tensor__")
        if is_constant and "float" not in config["config"]["dtype"]:
            return config
        return {
            key: dtype if key == "dtype" else _replace_dtypes(value, dtype)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(_replace_dtypes(value, dtype) for value in config)
    return config
