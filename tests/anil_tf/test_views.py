"""A backbone that sees several views of each image, against the same views made by NumPy."""

import keras
import numpy as np
import pytest

from anil_tf import ANIL, backbones, with_views

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 9, 7, 2)).astype(np.uint8)


def mirrored(images):
    return [images, images[:, :, ::-1]]


def moved(images):
    height, width = images.shape[1:3]
    wider = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    corners = [(top, left) for top in (0, 2) for left in (0, 2)]
    return [images, *(wider[:, y : y + height, x : x + width] for y, x in corners)]


@pytest.fixture
def backbone():
    keras.utils.set_random_seed(0)
    return backbones.conv4_strided((9, 7, 2), filters=4, blocks=2, cosine=True)


@pytest.mark.parametrize("views", [mirrored, moved])
def test_features_are_the_mean_over_the_views(backbone, views):
    mean = np.mean([backbone(view).numpy() for view in views(IMAGES)], axis=0)
    seen = with_views(backbone, views.__name__)
    np.testing.assert_allclose(seen(IMAGES), mean, atol=1e-6)
    assert np.abs(mean - backbone(IMAGES)).max() > 0.01
    for length in (1.0, 3.0):
        scaled = with_views(backbone, views.__name__, length)(IMAGES).numpy()
        np.testing.assert_allclose(
            scaled, length * mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5
        )


def test_an_image_and_its_mirror_image_have_the_same_features(backbone):
    seen = with_views(backbone, "mirrored")
    np.testing.assert_allclose(seen(IMAGES), seen(IMAGES[:, :, ::-1]), atol=1e-6)


def test_weights_are_shared_and_saved(backbone, tmp_path):
    model = ANIL(with_views(backbone, "moved", 1.0), ways=3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").backbone
    np.testing.assert_allclose(loaded(IMAGES), model.backbone(IMAGES), atol=1e-6)
    backbone.set_weights([0.5 * weight for weight in backbone.get_weights()])
    for ours, theirs in zip(model.backbone.get_weights(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_views_that_do_not_exist_or_fit_are_refused(backbone):
    with pytest.raises(ValueError, match=r"\['mirrored', 'moved'\]. Received: 'rotated'"):
        with_views(backbone, "rotated")
    with pytest.raises(ValueError, match=r"pictures.*Received: .*\[None, 128, 6\]"):
        with_views(backbones.conv1d((128, 6)), "moved")
    any_size = backbones.conv4_strided((None, None, 1), filters=4)
    with pytest.raises(ValueError, match=r"of one size.*Received: .*\[None, None, None, 1\]"):
        with_views(any_size, "moved")
