"""A backbone in another floating-point precision."""

from typing import Any

import keras


def with_precision(backbone: keras.Model, dtype: str) -> keras.Model:
    """A copy of a backbone that computes in one dtype throughout.

    float32 for export: a model trained in mixed precision computes in float16 on an accelerator,
    which few edge runtimes have. float64 for the reference that every runtime is compared with.

    Args:
        backbone: A Keras model with `get_config`, as every model that can be saved has.
        dtype: `"float32"` or `"float64"`.

    Returns:
        The same architecture and weights.
    """
    copy = type(backbone).from_config(_replace_dtypes(backbone.get_config(), dtype))
    if not copy.built:
        copy.build(backbone.input_shape)
    copy.set_weights(backbone.get_weights())
    return copy


def _replace_dtypes(config: Any, dtype: str) -> Any:
    """A copy of a Keras configuration in which every dtype policy is `dtype`."""
    if isinstance(config, dict):
        return {
            key: dtype if key == "dtype" else _replace_dtypes(value, dtype)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(_replace_dtypes(value, dtype) for value in config)
    return config
