"""Backbones of the few-shot literature: images in, one feature vector per image out.

Each takes pixels from 0 to 255 and scales them inside, so a client sends the bytes it has. Any
other Keras model from images to `[B, D]` works as well; `anil_tf.applications` has those of
`keras.applications` by name.

With `cosine=True` the last block has no ReLU and each feature vector is scaled to unit length. The
head then learns from cosines. The published networks do not do this. On Omniglot it improves
accuracy by several points: with features of any length the outer loop drives the inner loop to the
edge of divergence, where training stalls.
"""

from collections.abc import Callable

import keras

from anil_tf import applications
from anil_tf.efficientnet_lite import efficientnet_lite0
from anil_tf.normalization import NormalizedConvolution
from anil_tf.support.hints import did_you_mean

Shape = tuple[int, int, int]


def _pixels(input_shape: Shape, invert: bool) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input and its pixels scaled to 0..1; `invert` makes ink on paper bright on black.

    With inversion the paper is zero, which is what the convolutions pad with.
    """
    image = keras.Input(input_shape, name="image")
    scale, offset = (-1 / 255, 1.0) if invert else (1 / 255, 0.0)
    return image, keras.layers.Rescaling(scale, offset, name="pixels")(image)


def _features(
    x: keras.KerasTensor, pooling: bool, cosine: bool, length: float = 1.0
) -> keras.KerasTensor:
    layer = keras.layers.GlobalAveragePooling2D if pooling else keras.layers.Flatten
    x = layer(name="pooling" if pooling else "flatten")(x)
    if not cosine:
        return x
    x = keras.layers.UnitNormalization(name="unit_length")(x)
    return x if length == 1.0 else keras.layers.Rescaling(length, name="length")(x)


def conv4(
    input_shape: Shape = (84, 84, 3),
    filters: int = 32,
    blocks: int = 4,
    pooling: bool = False,
    invert: bool = False,
    cosine: bool = False,
    length: float = 1.0,
) -> keras.Model:
    """Four blocks of 3x3 convolution, batch norm, 2x2 max-pooling and ReLU (Vinyals et al. 2016).

    ReLU comes after the pooling: the same function as before it, on a quarter of the values.

    Args:
        input_shape: Height, width, channels.
        filters: Number of filters per convolution: 32 for mini-ImageNet (Ravi & Larochelle 2017),
            else 64.
        blocks: Number of blocks.
        pooling: Whether to average the last map over its positions (D = filters) instead of
            flattening it.
        invert: Whether the images show dark ink on light paper.
        cosine: Whether features have unit length and both signs; see the module's docstring.
        length: L2 norm of each feature vector with `cosine`; see `conv4_strided`.

    Returns:
        A model `[B, H, W, C] -> [B, D]`.
    """
    image, x = _pixels(input_shape, invert)
    for block in range(1, blocks + 1):
        x = NormalizedConvolution(filters, pool=True, name=f"block{block}_conv")(x)
        if block < blocks or not cosine:
            x = keras.layers.ReLU(name=f"block{block}_relu")(x)
    return keras.Model(image, _features(x, pooling, cosine, length), name="conv4")


def conv4_strided(
    input_shape: Shape = (28, 28, 1),
    filters: int = 64,
    blocks: int = 4,
    pooling: bool = True,
    invert: bool = False,
    cosine: bool = False,
    length: float = 1.0,
) -> keras.Model:
    """Four blocks of strided 3x3 convolution, batch norm and ReLU: MAML's Omniglot network.

    Args:
        input_shape: Height, width, channels.
        filters: Number of filters per convolution.
        blocks: Number of blocks.
        pooling: Whether to average the last map over its positions (D = filters), as MAML does,
            instead of flattening it.
        invert: Whether the images show dark ink on light paper.
        cosine: Whether features have unit length and both signs; see the module's docstring.
        length: L2 norm L of each feature vector with `cosine`. A head with rate r on features of
            norm L behaves like one with rate r L² on unit-norm features. Useful for MAML, where
            body and head share one rate.

    Returns:
        A model `[B, H, W, C] -> [B, D]`.
    """
    image, x = _pixels(input_shape, invert)
    for block in range(1, blocks + 1):
        x = NormalizedConvolution(filters, strides=2, name=f"block{block}_conv")(x)
        if block < blocks or not cosine:
            x = keras.layers.ReLU(name=f"block{block}_relu")(x)
    return keras.Model(image, _features(x, pooling, cosine, length), name="conv4_strided")


def resnet12(
    input_shape: Shape = (84, 84, 3),
    filters: int = 64,
    pooling: bool = True,
    invert: bool = False,
    cosine: bool = False,
) -> keras.Model:
    """ResNet-12 of few-shot learning (Oreshkin et al. 2018; widths as in Lee et al. 2019).

    Four residual blocks of three 3x3 convolutions, widths 1, 2.5, 5 and 10 times `filters`,
    LeakyReLU(0.1), 2x2 max-pooling after each block; without DropBlock.

    Args:
        input_shape: Height, width, channels.
        filters: Width of the first block.
        pooling: Whether to average the last map over its positions (D = 10 filters).
        invert: Whether the images show dark ink on light paper.
        cosine: Whether features have unit length and both signs; see the module's docstring.

    Returns:
        A model `[B, H, W, C] -> [B, D]`.
    """
    image, x = _pixels(input_shape, invert)
    for block, widening in enumerate((1, 2.5, 5, 10), start=1):
        width, name = int(widening * filters), f"block{block}"
        shortcut = NormalizedConvolution(width, kernel_size=1, name=f"{name}_shortcut")(x)
        for layer in (1, 2, 3):
            x = NormalizedConvolution(width, name=f"{name}_{layer}")(x)
            if layer == 3:
                x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
            if (block, layer) != (4, 3) or not cosine:
                x = keras.layers.LeakyReLU(negative_slope=0.1, name=f"{name}_{layer}_relu")(x)
        x = keras.layers.MaxPooling2D(padding="same", name=f"{name}_pool")(x)
    return keras.Model(image, _features(x, pooling, cosine), name="resnet12")


def conv1d(
    input_shape: tuple[int, int] = (128, 6),
    filters: int = 64,
    blocks: int = 4,
    cosine: bool = False,
) -> keras.Model:
    """Blocks of convolution over time, batch norm, max-pooling and ReLU: for windows of signals.

    Each channel is normalised first, so its unit does not matter. The last map is averaged over
    time.

    Args:
        input_shape: Moments and channels.
        filters: Number of filters per convolution, each over five moments.
        blocks: Number of blocks, each of which halves the moments.
        cosine: Whether features have unit length and both signs; see the module's docstring.

    Returns:
        A model `[B, T, C] -> [B, filters]`.

    Raises:
        ValueError: The input has not two axes, or too few moments for the blocks.
    """
    if len(input_shape) != 2 or input_shape[0] < 2**blocks:
        raise ValueError(
            f"conv1d takes windows [T, C] of at least {2**blocks} moments with {blocks} blocks. "
            f"Received: input_shape={list(input_shape)}"
        )
    window = keras.Input(input_shape, name="image")
    x = keras.layers.BatchNormalization(momentum=0.95, name="channels")(window)
    for block in range(1, blocks + 1):
        name = f"block{block}"
        x = keras.layers.Conv1D(filters, 5, padding="same", use_bias=False, name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(momentum=0.95, name=f"{name}_norm")(x)
        x = keras.layers.MaxPooling1D(name=f"{name}_pool")(x)
        if block < blocks or not cosine:
            x = keras.layers.ReLU(name=f"{name}_relu")(x)
    x = keras.layers.GlobalAveragePooling1D(name="pooling")(x)
    x = keras.layers.UnitNormalization(name="unit_length")(x) if cosine else x
    return keras.Model(window, x, name="conv1d")


def mlp(input_shape: tuple[int, ...] = (1,), units: int = 40, layers: int = 2) -> keras.Model:
    """A multi-layer perceptron: the body of MAML's sinusoid regressor (Finn et al. 2017).

    Args:
        input_shape: Shape of one input.
        units: Number of units per hidden layer.
        layers: Number of hidden layers.

    Returns:
        A model `[B, ...] -> [B, units]`.
    """
    inputs = keras.Input(input_shape, name="image")
    x = keras.layers.Flatten(name="flatten")(inputs)
    for layer in range(1, layers + 1):
        x = keras.layers.Dense(units, activation="relu", name=f"dense{layer}")(x)
    return keras.Model(inputs, x, name="mlp")


BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "conv1d": conv1d,
    "conv4": conv4,
    "conv4_strided": conv4_strided,
    "efficientnet_lite0": efficientnet_lite0,
    "resnet12": resnet12,
    "mlp": mlp,
}


def find(name: str) -> Callable[..., keras.Model]:
    """The function that builds a backbone.

    Args:
        name: A name in `BACKBONES`, or `keras.applications.NAME`.

    Raises:
        ValueError: There is no backbone of that name.
    """
    if name.startswith(applications.PREFIX):
        return applications.find(name)
    if name not in BACKBONES:
        raise ValueError(
            f"name must be one of {sorted(BACKBONES)}, or keras.applications.NAME."
            f"{did_you_mean(name, [*BACKBONES, *applications.names()])} Received: {name!r}"
        )
    return BACKBONES[name]
