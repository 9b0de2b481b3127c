"""Features that are computed once, and the runtime that uses them."""

import numpy as np
import pytest
import tensorflow as tf

from anil_tf import ANIL, ClassImages, EpisodeSampler, backbones
from anil_tf.training.keras_runtime import KerasRuntime, image_features, remembering


def test_each_image_is_computed_once_and_in_its_place():
    asked = []

    def compute(image):
        asked.extend(image[:, 0].tolist())
        return image * 10

    features = remembering(compute)
    for rows in ([1, 2, 1, 3], [3, 4, 1], [2]):
        images = np.array(rows, np.uint8)[:, np.newaxis]
        np.testing.assert_array_equal(features(images), images * 10)
    assert asked == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def sampler():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 1), np.uint8)
    return EpisodeSampler(
        ClassImages.from_arrays(images, np.repeat(np.arange(6), 10)), ways=3, shots=2, queries=4
    )


@pytest.mark.parametrize("norm", ["batch", "frozen", "support", "task"])
def test_a_runtime_answers_as_its_model_does(sampler, norm):
    backbone = backbones.conv4_strided((8, 8, 1), filters=4, blocks=1)
    model = ANIL(backbone, ways=3, head_init="shared", norm=norm, inner_lr=0.5)
    runtime = KerasRuntime(model)
    for index in range(3):
        episode = sampler.episode(index)
        batch = {name: tf.constant(values[np.newaxis]) for name, values in episode.items()}
        expected = model.adapt_and_predict(batch, ways=3, steps=2)
        for ours, theirs in zip(runtime.adapt_and_predict(episode, 3, 2), expected, strict=True):
            np.testing.assert_allclose(ours, theirs[0], rtol=1e-5, atol=1e-5)


def test_features_that_depend_on_other_images_are_not_remembered():
    model = ANIL(backbones.conv4_strided((8, 8, 1), filters=4, blocks=1), ways=2, norm="task")
    with pytest.raises(ValueError, match="must not depend on those beside it.*Received: .*task"):
        image_features(model)
