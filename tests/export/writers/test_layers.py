"""Which Keras layers a backbone may have: each is exported to ONNX and LiteRT and run there."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from anil_tf.export.verify.cases import measure
from anil_tf.export.writers.precision import check_copies, with_precision
from tests.export.writers.formats import RUNS, prepare

SHAPE = (8, 8, 3)
BOTH = ("onnx", "litert")

ACTIVATIONS = """celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu
linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu softmax soft_shrink softplus
softsign sparse_plus squareplus tanh tanh_shrink""".split()


def adapted_normalization():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3, 2, (64, *SHAPE)).astype(np.float32))
    return layer


def sequence(layer):
    """A layer of sequences, on images cut into eight steps."""
    return lambda x: layer(layers.Reshape((8, 24))(x))


def vector(layer):
    return lambda x: layer(layers.Flatten()(x))


def with_itself(layer):
    return sequence(lambda x: layer([x, x]))


def merging(layer):
    return lambda x: layer([x, layers.Conv2D(3, 1)(x)])


# What makes a part of a backbone, and the formats that it can be exported to.
LAYERS = {
    **{f"Activation {name}": (lambda n=name: layers.Activation(n), BOTH) for name in ACTIVATIONS},
    "Normalization, adapted": (adapted_normalization, BOTH),
    "Normalization, given": (
        lambda: layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1, 2, 3]),
        BOTH,
    ),
    "Normalization, given per pixel": (  # more numbers than TensorFlow writes into a graph itself
        lambda: layers.Normalization(
            axis=(1, 2, 3), mean=np.full(SHAPE, 0.1), variance=np.full(SHAPE, 0.2)
        ),
        BOTH,
    ),
    "BatchNormalization": (layers.BatchNormalization, BOTH),
    "LayerNormalization": (layers.LayerNormalization, BOTH),
    "GroupNormalization": (lambda: layers.GroupNormalization(3), BOTH),
    "RMSNormalization": (layers.RMSNormalization, BOTH),
    "UnitNormalization": (layers.UnitNormalization, BOTH),
    "SpectralNormalization": (lambda: layers.SpectralNormalization(layers.Conv2D(4, 3)), BOTH),
    "PReLU": (layers.PReLU, BOTH),
    "ReLU": (layers.ReLU, BOTH),
    "ReLU, up to 6": (lambda: lambda x: layers.ReLU(6)(layers.Rescaling(20)(x)), BOTH),
    "Conv2D": (lambda: layers.Conv2D(4, 3), BOTH),
    "Conv2D, same": (lambda: layers.Conv2D(4, 3, padding="same"), BOTH),
    "Conv2D, strides": (lambda: layers.Conv2D(4, 3, 2, padding="same"), BOTH),
    "Conv2D, strides without padding": (lambda: layers.Conv2D(4, 3, 2), BOTH),
    "Conv2D, dilated": (lambda: layers.Conv2D(4, 3, dilation_rate=2), BOTH),
    "Conv2D, groups": (lambda: layers.Conv2D(6, 3, groups=3), BOTH),
    "Conv2D, groups with padding": (lambda: layers.Conv2D(3, 3, groups=3, padding="same"), BOTH),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(4, 3, 2), BOTH),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3), BOTH),
    "DepthwiseConv2D, same": (lambda: layers.DepthwiseConv2D(3, padding="same"), BOTH),
    "DepthwiseConv2D, strides": (lambda: layers.DepthwiseConv2D(3, 2), BOTH),
    "DepthwiseConv2D, same, strides": (lambda: layers.DepthwiseConv2D(3, 2, "same"), BOTH),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(4, 3), BOTH),
    "SeparableConv2D, same": (lambda: layers.SeparableConv2D(4, 3, padding="same"), BOTH),
    "SeparableConv2D, strides": (lambda: layers.SeparableConv2D(4, 3, 2), BOTH),
    "Conv3D": (lambda: lambda x: layers.Conv3D(2, 2)(layers.Reshape((2, 4, 8, 3))(x)), BOTH),
    "AveragePooling2D": (lambda: layers.AveragePooling2D(2), BOTH),
    "AveragePooling2D, same": (lambda: layers.AveragePooling2D(3, 1, "same"), BOTH),
    "MaxPooling2D": (layers.MaxPooling2D, BOTH),
    "MaxPooling2D, same": (lambda: layers.MaxPooling2D(3, 2, "same"), BOTH),
    "GlobalAveragePooling2D": (layers.GlobalAveragePooling2D, BOTH),
    "GlobalMaxPooling2D": (layers.GlobalMaxPooling2D, BOTH),
    "UpSampling2D": (layers.UpSampling2D, BOTH),
    "ZeroPadding2D": (layers.ZeroPadding2D, BOTH),
    "Cropping2D": (layers.Cropping2D, BOTH),
    "CenterCrop": (lambda: layers.CenterCrop(4, 4), BOTH),
    "Rescaling": (lambda: layers.Rescaling(2.0), BOTH),
    "Resizing, bilinear": (lambda: layers.Resizing(5, 6), BOTH),
    "Resizing, nearest": (lambda: layers.Resizing(5, 6, interpolation="nearest"), BOTH),
    "Resizing, bicubic": (lambda: layers.Resizing(5, 6, interpolation="bicubic"), ()),
    "Resizing, lanczos3": (lambda: layers.Resizing(5, 6, interpolation="lanczos3"), ()),
    "RandomFlip": (layers.RandomFlip, BOTH),
    "RandomRotation": (lambda: layers.RandomRotation(0.1), BOTH),
    "Dropout": (lambda: layers.Dropout(0.5), BOTH),
    "GaussianNoise": (lambda: layers.GaussianNoise(0.5), BOTH),
    "take, by constant indices": (
        lambda: lambda x: keras.ops.take(x, np.array([2, 0, 1, 2], np.int32), axis=2),
        BOTH,
    ),
    "Permute": (lambda: layers.Permute((2, 1, 3)), BOTH),
    "Discretization": (lambda: layers.Discretization(bin_boundaries=[0.2, 0.5]), ("litert",)),
    "Dense": (lambda: vector(layers.Dense(5)), BOTH),
    "RepeatVector": (lambda: vector(layers.RepeatVector(3)), BOTH),
    "Add": (lambda: merging(layers.Add()), BOTH),
    "Concatenate": (lambda: merging(layers.Concatenate()), BOTH),
    "Maximum": (lambda: merging(layers.Maximum()), BOTH),
    "Multiply": (lambda: merging(layers.Multiply()), BOTH),
    "LayerScale of ConvNeXt": (
        lambda: sys.modules[keras.applications.ConvNeXtTiny.__module__].LayerScale(0.5, 3),
        BOTH,
    ),
    "CustomScaleLayer of InceptionResNetV2": (
        lambda: merging(
            sys.modules[keras.applications.InceptionResNetV2.__module__].CustomScaleLayer(0.5)
        ),
        BOTH,
    ),
    "Conv1D": (lambda: sequence(layers.Conv1D(4, 3)), BOTH),
    "Conv1D, causal": (lambda: sequence(layers.Conv1D(4, 3, padding="causal")), BOTH),
    "SeparableConv1D": (lambda: sequence(layers.SeparableConv1D(4, 3)), BOTH),
    "MaxPooling1D": (lambda: sequence(layers.MaxPooling1D()), BOTH),
    "GlobalAveragePooling1D": (lambda: sequence(layers.GlobalAveragePooling1D()), BOTH),
    "EinsumDense": (lambda: sequence(layers.EinsumDense("abc,cd->abd", (8, 4))), BOTH),
    "TimeDistributed": (lambda: sequence(layers.TimeDistributed(layers.Dense(3))), BOTH),
    "Attention": (lambda: with_itself(layers.Attention()), BOTH),
    "AdditiveAttention": (lambda: with_itself(layers.AdditiveAttention()), BOTH),
    "MultiHeadAttention": (
        lambda: sequence(lambda x: layers.MultiHeadAttention(2, 4)(x, x)),
        BOTH,
    ),
    "GRU": (lambda: sequence(layers.GRU(4)), ("onnx",)),
    "LSTM": (lambda: sequence(layers.LSTM(4)), ("onnx",)),
    "LSTM, unrolled": (lambda: sequence(layers.LSTM(4, unroll=True)), BOTH),
    "SimpleRNN": (lambda: sequence(layers.SimpleRNN(4)), ("onnx",)),
}
# What the refusal says, of what cannot be exported to a format.
REFUSALS = {
    ("Discretization", "onnx"): "no operation for TensorFlow's Bucketize, .* in .*discretization",
    ("GRU", "litert"): "Give recurrent layers unroll=True",
    ("LSTM", "litert"): "Give recurrent layers unroll=True",
    ("SimpleRNN", "litert"): "Give recurrent layers unroll=True",
    ("Resizing, bicubic", "onnx"): "ONNX Runtime cannot run the exported",
    ("Resizing, bicubic", "litert"): "no built-in operation for FlexResizeBicubic",
    ("Resizing, lanczos3", "onnx"): "TensorFlow's ScaleAndTranslate, .* in .*resizing",
    ("Resizing, lanczos3", "litert"): "LiteRT cannot be written: .*ScaleAndTranslate",
}


# The layers that are exported to both formats, in backbones of several.
PARTS = [name for name, (_, formats) in LAYERS.items() if formats == BOTH]
GROUPS = [PARTS[start : start + 20] for start in range(0, len(PARTS), 20)]


def make_backbone(*parts):
    """Four features of each part."""
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    scaled = layers.Rescaling(1 / 255)(image)
    features = []
    for part in parts:
        x = part()(scaled)
        if len(x.shape) > 2:
            x = layers.Flatten()(x)
        features.append(layers.Dense(4)(x))
    return keras.Model(image, features[0] if len(parts) == 1 else layers.Concatenate()(features))


def make_images():
    return np.random.default_rng(1).integers(0, 256, (4, *SHAPE), np.uint8)


@pytest.mark.parametrize("names", GROUPS, ids=lambda names: f"{names[0]} to {names[-1]}")
def test_these_layers_are_exported(names, tmp_path):
    backbone, images = make_backbone(*(LAYERS[name][0] for name in names)), make_images()
    graphs, _ = prepare(backbone, images)
    expected = backbone(images, training=False).numpy()
    for kind in BOTH:
        found = RUNS[kind](graphs, images, tmp_path)
        for index, name in enumerate(names):
            rows = np.s_[:, 4 * index : 4 * index + 4]
            difference = measure({"features": found[rows]}, ({"features": expected[rows]},))
            assert difference < 1e-5, (name, kind)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in PARTS])
def test_a_layer_is_exported_or_refused_in_one_line(name, tmp_path):
    part, formats = LAYERS[name]
    backbone, images = make_backbone(part), make_images()
    graphs, _ = prepare(backbone, images)
    expected = {"features": backbone(images, training=False).numpy()}
    for kind in BOTH:
        if kind in formats:
            found = {"features": RUNS[kind](graphs, images, tmp_path)}
            assert measure(found, (expected,)) < 1e-5, kind
        else:
            with pytest.raises(ValueError, match=REFUSALS[name, kind]):
                RUNS[kind](graphs, images, tmp_path)


class Remembering(layers.Layer):
    """A layer with a number that neither its configuration nor its weights hold."""

    scale = 1.0

    def call(self, inputs):
        return inputs * self.scale


def test_a_layer_whose_state_is_lost_in_a_copy_is_named():
    layer = Remembering(name="remembering")
    layer.scale = 3.0
    with keras.saving.custom_object_scope({"Remembering": Remembering}):
        backbone = make_backbone(lambda: layer)
        copies = [with_precision(backbone, dtype) for dtype in ("float32", "float64")]
    images = make_images()
    with pytest.raises(ValueError, match=r"from the layer 'remembering' \(Remembering\) on"):
        check_copies(backbone, *copies, images)
