"""Backbones of `keras.applications`, by name, with weights from a file.

By default the weights are random. `weights="imagenet"` downloads Keras's own; a file needs no
network connection. The graph contains the network's own `preprocess_input`, so a client sends the
bytes it has. The last map is averaged over its positions, to `[B, D]`.

This writes a file of weights (your own training may write one too):

    keras.applications.MobileNetV2(include_top=False).save_weights("mobilenet.weights.h5")

EfficientNet (not V2) has one more step in its graph when it is made with `weights="imagenet"`. Save
it with `.save("efficientnet.keras")` and use that file to get its accuracy.
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
    """The names of all applications, such as `keras.applications.MobileNetV2`."""
    public = vars(keras.applications).items()
    return sorted(PREFIX + name for name, value in public if inspect.isfunction(value))


def find(name: str) -> Callable[..., keras.Model]:
    """The function that builds the application of a name: `build` without its first argument.

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
    """Makes a backbone of an application.

    Args:
        constructor: Constructor of the application, such as `keras.applications.MobileNetV2`.
        input_shape: Height, width and 3 channels.
        weights: `"imagenet"`, which Keras downloads, or the path of a `.weights.h5` or `.keras`
            file of the application without its top. By default the weights are random.
        trainable: Whether the outer loop trains it; see `freeze`.
        cosine: Whether features have unit length; see `anil_tf.backbones`.

    Returns:
        A model `[B, H, W, 3] -> [B, D]` that takes pixels from 0 to 255.

    Raises:
        FileNotFoundError: There is no such file of weights.
        ValueError: The images are too small or not of three channels, or the weights do not fit.
    """
    if len(input_shape) != 3 or input_shape[-1] != 3:
        raise ValueError(
            f"{PREFIX}{constructor.__name__} takes images of 3 channels: input_shape must be "
            f"(height, width, 3). Received: {list(input_shape)}"
        )
    imagenet = weights if weights == "imagenet" else None
    application = constructor(
        include_top=False, weights=imagenet, input_shape=tuple(input_shape), pooling="avg"
    )
    if weights is not None and imagenet is None:
        application = _load(application, Path(weights), constructor.__name__)
    if not trainable:
        freeze(application)
    image = keras.Input(input_shape, name="image")
    module = sys.modules[constructor.__module__]  # it also has the preprocessing
    x = application(module.preprocess_input(image))
    if len(x.shape) == 4:
        x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
    if cosine:
        x = keras.layers.UnitNormalization(name="unit_length")(x)
    return keras.Model(image, x, name=application.name)


def freeze(network: keras.Model) -> None:
    """Keeps the weights of a network as they are, and runs it in inference mode in training too.

    Batch norm uses its moving averages, and there is no dropout.
    """
    network.trainable = False
    for layer in flatten_layers(network):
        if isinstance(layer, keras.layers.Dropout):  # unlike batch norm, it ignores `trainable`
            layer.rate = 0.0


def _load(application: keras.Model, path: Path, name: str) -> keras.Model:
    if not path.is_file():
        raise FileNotFoundError(
            f"weights: there is no file {path}. Where there is a network, weights = 'imagenet' "
            f"downloads Keras's own, and "
            f"{PREFIX}{name}(include_top=False).save_weights('FILE.weights.h5') writes a file"
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
