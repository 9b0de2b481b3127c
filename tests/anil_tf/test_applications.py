"""Backbones of `keras.applications`: their own pixels, weights from a file, frozen or trained."""

import sys

import keras
import numpy as np
import pytest

from anil_tf import applications, backbones
from anil_tf.export.writers.precision import with_precision

SHAPE = (32, 32, 3)
MOBILE = "keras.applications.MobileNet"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)


def tiny_network(include_top, weights, input_shape, pooling):
    """In the place of a constructor of Keras: a convolution, batch norm and dropout."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3)(inputs)
    x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="tiny")


@pytest.fixture
def tiny(monkeypatch):
    """Builds the tiny network with the preprocessing of one of Keras's own."""

    def build(like="mobilenet", **options):
        module = sys.modules[getattr(keras.applications, like).preprocess_input.__module__]
        monkeypatch.setattr(tiny_network, "__module__", module.__name__)
        return applications.build(tiny_network, SHAPE, **options)

    return build


@pytest.mark.parametrize("like", ["mobilenet", "vgg16", "densenet", "efficientnet"])
def test_pixels_are_prepared_as_the_network_was_trained(tiny, images, like, tmp_path):
    """The four ways that Keras has, in the graph, through a file and in float64."""
    backbone = tiny(like)
    inner = next(layer for layer in backbone.layers if isinstance(layer, keras.Model))
    prepare = getattr(keras.applications, like).preprocess_input
    expected = inner(prepare(images.astype(np.float32)), training=False)
    np.testing.assert_allclose(backbone(images, training=False), expected, rtol=1e-5, atol=1e-4)
    backbone.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(images, training=False), expected, rtol=1e-5, atol=1e-4)
    precise = with_precision(loaded, "float64")(images.astype(np.float64), training=False)
    assert precise.dtype == "float64"
    np.testing.assert_allclose(precise, expected, rtol=1e-4, atol=1e-3)


def test_frozen_it_is_in_inference_mode_in_training_too(tiny, images):
    frozen, trained = tiny(trainable=False), tiny()
    assert not frozen.trainable_variables and trained.trainable_variables
    before = frozen(images, training=False)
    np.testing.assert_array_equal(frozen(images, training=True), before)
    assert np.abs(trained(images, training=True) - trained(images, training=False)).max() > 1e-3


def test_features_of_unit_length(tiny, images):
    lengths = np.linalg.norm(tiny(cosine=True)(images), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_weights_come_from_a_file(tiny, images, tmp_path, suffix):
    given = tiny_network(False, None, SHAPE, "avg")
    path = tmp_path / f"given{suffix}"
    given.save_weights(path) if suffix == ".weights.h5" else given.save(path)
    backbone = tiny(weights=path)
    for ours, theirs in zip(backbone.get_weights(), given.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_of_another_network_are_refused(tiny, tmp_path):
    other = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(9)])
    other.save(tmp_path / "other.keras")
    other.save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "none.weights.h5").write_bytes(b"no weights")
    for name in ("other.keras", "other.weights.h5", "none.weights.h5"):
        with pytest.raises(ValueError, match=f"{name} does not hold"):
            tiny(weights=tmp_path / name)


def test_what_keras_has_not_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'keras.applications.MobileNetV2'"):
        backbones.find("keras.applications.MobilNetV2")
    with pytest.raises(ValueError, match=r"images of 3 channels.* Received: \[28, 28, 1\]"):
        backbones.find(MOBILE)((28, 28, 1))
    with pytest.raises(ValueError, match="^name must be one of"):
        backbones.find("conv5")
    assert {MOBILE, "keras.applications.EfficientNetB0"} <= set(applications.names())
