"""Backbones of `keras.applications`, by name, with weights from a file.

Nothing is downloaded: without a file the weights are random. A network gets its pixels as it was
trained on them, by its own `preprocess_input` within the graph, so that a client sends the bytes it
has; its last map is averaged over the positions, to `[B, D]`.

A file of weights is what this writes where there is a network (or your own training wrote):

    keras.applications.MobileNetV2(include_top=False).save_weights("mobilenet.weights.h5")

EfficientNet alone (not V2) has one step more in its graph if it is made with `weights="imagenet"`:
save it with `.save("efficientnet.keras")`, and give that file to have its accuracy.
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import keras

from anil_tf.support.hints import did_you_mean
from anil_tf.support.keras_private import flatten_layers

PREFIX = "keras.applications."


def names() -> list[str]:
    """`keras.applications.MobileNetV2` and all the others."""
    public = vars(keras.applications).items()
    return sorted(PREFIX + name for name, value in public if inspect.isfunction(value))


def find(name: str) -> Callable[..., keras.Model]:
    """The backbone of a name, to be called as `build` is, without its first argument.

    Raises:
        ValueError: Keras has no application of that name.
    """
    if name not in names():
        hint = did_you_mean(name, names()) or f" There are: {', '.join(names())}"
        raise ValueError(f"Keras has no {name}.{hint}")
    constructor = getattr(keras.applications, name.removeprefix(PREFIX))

    def backbone(
        input_shape: tuple[int, int, int],
        weights: str | Path | None = None,
        trainable: bool = True,
        cosine: bool = False,
    ) -> keras.Model:
        return build(constructor, input_shape, weights, trainable, cosine)

    return backbone


def build(
    constructor: Callable[..., keras.Model],
    input_shape: tuple[int, int, int],
    weights: str | Path | None = None,
    trainable: bool = True,
    cosine: bool = False,
) -> keras.Model:
    """A backbone out of an application.

    Args:
        constructor: `keras.applications.MobileNetV2` or another.
        input_shape: Height, width and 3 channels.
        weights: A `.weights.h5` or `.keras` file of the application without its top; random
            weights without.
        trainable: Whether the outer loop trains it. If not, it runs in inference mode in training
            too: batch norm by its moving averages, no dropout.
        cosine: Features of unit length; see `anil_tf.backbones`.

    Returns:
        A model `[B, H, W, 3] -> [B, D]`, of pixels from 0 to 255.

    Raises:
        FileNotFoundError: There is no such file of weights.
        ValueError: The images are too small or not of three channels, or the weights do not fit.
    """
    if len(input_shape) != 3 or input_shape[-1] != 3:
        raise ValueError(
            f"{PREFIX}{constructor.__name__} takes images of 3 channels, data.image_shape = "
            f"[height, width, 3]. Received: {list(input_shape)}"
        )
    application = constructor(
        include_top=False, weights=None, input_shape=tuple(input_shape), pooling="avg"
    )
    if weights is not None:
        application = _load(application, Path(weights), constructor.__name__)
    application.trainable = trainable
    if not trainable:
        # Unlike batch norm, dropout does not care about `trainable`.
        for layer in flatten_layers(application):
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
    image = keras.Input(input_shape, name="image")
    module = sys.modules[constructor.__module__]  # each has the preprocessing beside the network
    x = application(module.preprocess_input(image))
    if len(x.shape) == 4:
        x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
    if cosine:
        x = keras.layers.UnitNormalization(name="unit_length")(x)
    return keras.Model(image, x, name=application.name)


def _load(application: keras.Model, path: Path, name: str) -> keras.Model:
    if not path.is_file():
        raise FileNotFoundError(
            f"model.backbone.weights: there is no file {path}. Where there is a network, "
            f"{PREFIX}{name}(include_top=False).save_weights('FILE.weights.h5') writes one"
        )
    try:
        if path.suffix != ".keras":
            application.load_weights(path)
            return application
        loaded = keras.saving.load_model(path, compile=False)
        if loaded.output_shape[-1] != application.output_shape[-1]:
            raise ValueError(f"its outputs are {loaded.output_shape[1:]}")
        return loaded
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"{path} does not hold {PREFIX}{name} without its top (include_top=False): {error}"
        ) from error
