"""Several views of each image, whose features are averaged: test-time augmentation in the graph."""

from collections.abc import Callable
from typing import Literal

import keras
import numpy as np

Views = Literal["mirrored", "moved"]


def with_views(backbone: keras.Model, views: Views, length: float | None = None) -> keras.Model:
    """A backbone whose features are the means over several views of each image.

    Accuracy is higher, and features take as many times as long as there are views. The backbone is
    trained first, on single views. The result shares its weights.

        seen = ANIL(with_views(model.backbone, "mirrored", length=1.0), **settings_of_model)
        seen.set_weights(model.get_weights())  # those of the head and of the inner rate too

    Args:
        backbone: Keras model `[B, H, W, C] -> [B, D]`.
        views: `"mirrored"`, for photographs: each image and its mirror image, 2 views. `"moved"`,
            for drawings: each image, and the image moved by a pixel along each diagonal, 5 views.
        length: L2 norm to scale each mean to, for a backbone whose features all have that norm. By
            default the means stay as they are.

    Returns:
        A model `[B, H, W, C] -> [B, D]`.

    Raises:
        ValueError: There are no views of that name, or the backbone does not take pictures of one
            size.
    """
    if views not in VIEWS:
        raise ValueError(f"views must be one of {sorted(VIEWS)}. Received: {views!r}")
    if len(backbone.input_shape) != 4 or None in backbone.input_shape[1:]:
        raise ValueError(
            "views are for backbones of pictures [B, H, W, C] of one size. "
            f"Received: a backbone of {list(backbone.input_shape)}"
        )
    image = keras.Input(backbone.input_shape[1:], name="image", dtype=backbone.inputs[0].dtype)
    seen = VIEWS[views](image)
    x = backbone(keras.ops.concatenate(seen, axis=0))
    x = keras.ops.mean(keras.ops.reshape(x, (len(seen), -1, x.shape[-1])), axis=0)
    if length is not None:
        x = keras.layers.UnitNormalization(name="unit_length")(x)
    if length not in (None, 1.0):
        x = keras.layers.Rescaling(length, name="length")(x)
    return keras.Model(image, x, name=backbone.name)


def _mirrored(image: keras.KerasTensor) -> list[keras.KerasTensor]:
    # A slice of negative step is many times as slow.
    columns = np.arange(image.shape[2])[::-1].astype(np.int32)
    return [image, keras.ops.take(image, columns, axis=2)]


def _moved(image: keras.KerasTensor) -> list[keras.KerasTensor]:
    """The image, and four of its size cut out of it with its edges repeated once."""
    height, width = image.shape[1:3]
    x = keras.ops.concatenate([image[:, :1], image, image[:, -1:]], axis=1)
    x = keras.ops.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
    corners = [(top, left) for top in (0, 2) for left in (0, 2)]
    return [image, *(x[:, top : top + height, left : left + width] for top, left in corners)]


VIEWS: dict[str, Callable[[keras.KerasTensor], list[keras.KerasTensor]]] = {
    "mirrored": _mirrored,
    "moved": _moved,
}
