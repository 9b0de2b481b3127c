"""Training that also classifies each image among all training classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anil_tf import ANIL, EpisodeSampler, backbones
from anil_tf.datasets.images import ClassImages

WEIGHT = 0.5


@pytest.fixture(scope="module")
def classes() -> ClassImages:
    """Six classes of 6 to 11 images 8 x 8."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), np.arange(6, 12))
    return ClassImages.from_arrays(rng.integers(0, 256, (len(labels), 8, 8, 1), np.uint8), labels)


def make_model(**options) -> ANIL:
    backbone = backbones.conv4_strided((8, 8, 1), filters=4, blocks=1, cosine=True)
    return ANIL(backbone, ways=3, head_init="shared", inner_steps=1, inner_lr=5.0, **options)


def first_batch(sampler: EpisodeSampler):
    return next(iter(sampler.dataset(batches=1, tasks=2)))


@pytest.mark.parametrize("rotations", [False, True])
def test_each_image_has_its_class_and_padding_has_none(classes, rotations):
    sampler = EpisodeSampler(classes, 3, (1, 3), 2, rotations=rotations, image_classes=True)
    assert sampler.classes == (24 if rotations else 6)
    batch = sampler.draw_batch(tf.range(2, dtype=tf.int64))
    labels = np.concatenate([batch["support_y"], batch["query_y"]], axis=1)
    found = batch["image_classes"].numpy()
    assert (found[labels < 0] == -1).all() and (labels < 0).any()
    of_label = batch["classes"].numpy()
    for task, row in zip(of_label, np.arange(2), strict=True):
        for label, name in enumerate(task):
            numbers = set(found[row][labels[row] == label])
            assert len(numbers) == 1
            assert numbers.pop() // (4 if rotations else 1) == name


def test_the_gradient_is_that_of_both_losses(classes):
    sampler = EpisodeSampler(classes, 3, (1, 3), 2, image_classes=True)
    inputs, query_y = first_batch(sampler)
    model = make_model(image_classes=sampler.classes, image_weight=WEIGHT)
    model.compile("sgd")
    gradients, reported, _, logits = model.outer_gradients(inputs, query_y)

    with tf.GradientTape() as tape:
        features = model.embed(inputs["support_x"], inputs["query_x"], training=True)
        of_queries = keras.losses.sparse_categorical_crossentropy(
            query_y, model.adapt_head(features[0], inputs["support_y"])(features[1]), True
        )
        kernel = model.classifier.kernel
        kernel = kernel / tf.norm(kernel, axis=0)
        cosines = tf.tensordot(tf.concat(features, axis=1), kernel, 1)
        rows = tf.where(inputs["image_classes"] >= 0)
        chosen = tf.gather_nd(inputs["image_classes"], rows)
        scores = model.classifier.scale * tf.gather_nd(cosines, rows)
        of_images = keras.losses.sparse_categorical_crossentropy(chosen, scores, True)
        total = tf.reduce_mean(of_queries) + WEIGHT * tf.reduce_mean(of_images)
    expected = tape.gradient(total, model.trainable_weights)
    for found, wanted in zip(gradients, expected, strict=True):
        if wanted is not None:
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert float(reported) == pytest.approx(float(tf.reduce_mean(of_queries)), abs=1e-5)


def test_fit_trains_it_and_a_saved_model_has_it(classes, tmp_path):
    sampler = EpisodeSampler(classes, 3, 2, 2, image_classes=True)
    model = make_model(image_classes=sampler.classes)
    model.compile(keras.optimizers.Adam(0.02))
    inputs, _ = first_batch(sampler)
    before = model.predict_in_training(inputs)[1]
    model.fit(sampler.dataset(batches=20, tasks=2), epochs=3, verbose=0)
    assert model.predict_in_training(inputs)[1] < 0.9 * before
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (loaded.image_classes, loaded.image_weight) == (6, 1.0)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    without = {name: inputs[name] for name in ("support_x", "support_y", "query_x")}
    np.testing.assert_allclose(loaded.predict(without, verbose=0), model(inputs), atol=1e-6)


def test_what_it_needs_is_said(classes):
    inputs, query_y = first_batch(EpisodeSampler(classes, 3, 2, 2))
    model = make_model(image_classes=6)
    model.compile("sgd")
    with pytest.raises(ValueError, match="needs the inputs' image_classes .*Received: .*query_x"):
        model.train_on_batch(inputs, query_y)
    with pytest.raises(ValueError, match="image_weight=0"):
        make_model(image_classes=6, image_weight=0)
