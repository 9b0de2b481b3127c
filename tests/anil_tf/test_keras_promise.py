"""What Keras users take for granted of a model, each promise a test."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from anil_tf import (
    ANIL,
    BOIL,
    MAML,
    NIL,
    EpisodeAccuracy,
    EpisodeAccuracyCI95,
    EpisodeSampler,
    backbones,
)
from anil_tf.adaptive import AdaptiveModel
from anil_tf.datasets.images import ClassImages
from anil_tf.export.verify.reference import log_softmax
from anil_tf.losses import cross_entropy
from anil_tf.metrics import mean_and_ci95
from anil_tf.nil import Pretrained
from anil_tf.normalization import BatchNormalization


@pytest.fixture(scope="module")
def sampler() -> EpisodeSampler:
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (8, 1, 12, 12, 1))
    images = np.clip(patterns + rng.integers(-30, 30, (8, 6, 12, 12, 1)), 0, 255)
    images = images.astype(np.uint8).reshape(-1, 12, 12, 1)
    classes = ClassImages.from_arrays(images, np.repeat(np.arange(8), 6))
    return EpisodeSampler(classes, ways=3, shots=1, queries=2)


def episodes(sampler, batches: int, start: int = 0) -> tf.data.Dataset:
    """Meta-batches of two tasks, already drawn: drawing is made ready anew for each epoch."""
    drawn = list(sampler.dataset(batches, 2, start))
    return tf.data.Dataset.from_tensor_slices(
        tf.nest.map_structure(lambda *each: tf.stack(each), *drawn)
    )


def quick(kind) -> dict[str, int]:
    """One block; and one step through the backbone, which has second derivatives already."""
    return {"blocks": 1} | ({"inner_steps": 1} if kind.adapts_body else {})


def make_model(backbone=None, compiled=True, kind=ANIL, blocks=2, **options) -> ANIL:
    keras.utils.set_random_seed(1)
    backbone = backbone or backbones.conv4_strided((12, 12, 1), filters=4, blocks=blocks)
    settings = {"ways": 3}
    if issubclass(kind, AdaptiveModel):
        settings |= {"head_init": "per_class", "inner_steps": 2, "inner_lr": 0.3}
    settings |= options
    compile_options = settings.pop("compile", {})
    model = kind(backbone, **settings)
    if compiled:
        model.compile(
            keras.optimizers.Adam(0.01), metrics=[EpisodeAccuracy(), EpisodeAccuracyCI95()],
            **compile_options,
        )  # fmt: skip
    return model


def fit(model, sampler, batches=4, **options):
    return model.fit(episodes(sampler, batches), verbose=0, **options).history


def weights_after_fit(sampler, batches=4, **options):
    model = make_model(**options)
    fit(model, sampler, batches)
    return model.get_weights()


def assert_same(first, second, bound=1e-5):
    for left, right in zip(first, second, strict=True):
        np.testing.assert_allclose(left, right, rtol=bound, atol=bound)


def test_fit_lowers_the_loss(sampler):
    history = fit(make_model(learn_inner_lr=True), sampler, 30, epochs=2)
    assert history["loss"][-1] < history["loss"][0]


def test_evaluate_scores_the_logits_of_predict(sampler):
    model = make_model()
    fit(model, sampler, 1)
    scores = model.evaluate(episodes(sampler, 10), return_dict=True, verbose=0)
    logits = model.predict(episodes(sampler, 10), verbose=0)
    labels = np.stack([sampler.episode(index)["query_y"] for index in range(20)])
    right = np.mean(logits.argmax(-1) == labels, axis=1)
    mean, interval = mean_and_ci95(right)
    assert scores["accuracy"] == pytest.approx(mean, abs=1e-6)
    assert interval > 0
    assert scores["accuracy_ci95"] == pytest.approx(interval, abs=1e-5)
    chosen = np.take_along_axis(log_softmax(logits), labels[..., np.newaxis], -1)
    expected = -chosen.mean()
    assert scores["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MAML, BOIL, NIL, Pretrained])
def test_every_algorithm_learns_saves_and_goes_on(sampler, tmp_path, kind):
    learned = {"learn_inner_lr": True} if kind in (MAML, BOIL) else {}
    model = make_model(kind=kind, norm="support", **learned, **quick(kind))
    history = fit(model, sampler, 30, epochs=2, validation_data=episodes(sampler, 2, start=90))
    assert history["loss"][-1] < history["loss"][0]
    assert "val_accuracy_before_adaptation" in history
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is kind
    results = []
    for each in (model, loaded):
        each.fit(episodes(sampler, 3, start=50), verbose=0)
        results.append([*each.get_weights(), each.predict(episodes(sampler, 2), verbose=0)])
    assert_same(*results, 1e-5)


def test_callbacks(sampler, tmp_path):
    model = make_model()
    logs = keras.callbacks.CSVLogger(str(tmp_path / "history.csv"))
    fit(
        model,
        sampler,
        epochs=6,
        validation_data=episodes(sampler, 2, start=100),
        callbacks=[
            keras.callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), monitor="val_loss"),
            keras.callbacks.BackupAndRestore(str(tmp_path / "backup")),
            keras.callbacks.EarlyStopping("val_loss", min_delta=100, patience=1),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.TensorBoard(str(tmp_path / "events")),
            logs,
        ],
    )
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert len(rows) == 1 + 2  # EarlyStopping ended it
    assert "val_accuracy_before_adaptation" in rows[0]
    assert keras.saving.load_model(tmp_path / "best.keras").optimizer.iterations > 0
    assert b"epoch_accuracy" in b"".join(
        file.read_bytes() for file in tmp_path.glob("events/train/events.*")
    )


def test_saving_keeps_weights_settings_and_the_optimizer(sampler, tmp_path):
    model = make_model(learn_inner_lr=True, first_order=True, norm="task", inner_loop="tape")
    fit(model, sampler)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(loaded.get_weights(), model.get_weights(), 0)
    settings, expected = loaded.get_config(), model.get_config()
    for config in (settings, expected):
        del config["backbone"]  # its lists come back as tuples
    assert settings == expected
    for each in (model, loaded):
        each.fit(episodes(sampler, 3, start=50), verbose=0)
    assert_same(loaded.get_weights(), model.get_weights(), 1e-6)


@pytest.mark.parametrize(
    ("kind", "norm"),
    [(ANIL, "batch"), (ANIL, "task"), (ANIL, "support"), (MAML, "task"), (BOIL, "support")],
)
def test_xla_gives_the_same_weights(sampler, kind, norm):
    settings = {"kind": kind, "norm": norm, **quick(kind)}
    plain = weights_after_fit(sampler, 3, **settings)
    compiled = weights_after_fit(sampler, 3, compile={"jit_compile": True}, **settings)
    assert_same(plain, compiled, 2e-3)


@pytest.mark.parametrize("settings", [{}, {"kind": MAML, "norm": "task"}], ids=["ANIL", "MAML"])
def test_execution_options_give_the_same_weights(sampler, settings):
    settings = settings | quick(settings.get("kind", ANIL))
    plain = weights_after_fit(sampler, **settings)
    for option in ({"steps_per_execution": 2}, {"run_eagerly": True}):
        assert_same(plain, weights_after_fit(sampler, compile=option, **settings), 1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_learns_and_adapts_in_float32(sampler, policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = make_model()
        history = fit(model, sampler, 48, epochs=2)
        features = model.embedding.embed_images(tf.zeros([2, 12, 12, 1], tf.uint8))
        logits = model.predict(episodes(sampler, 1), verbose=0)
        expected = model.adapt_and_predict(next(iter(episodes(sampler, 1)))[0]).after
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert features.dtype == tf.float32
    assert model.head.kernel.dtype == "float32"
    np.testing.assert_allclose(logits, expected, rtol=0.05, atol=0.05)
    assert logits.dtype == np.float32


def test_a_model_that_is_gone_leaves_no_graph_behind(sampler):
    def train_one():
        fit(make_model(), sampler, 2)
        keras.backend.clear_session()
        gc.collect()

    def graphs() -> int:
        return sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())

    train_one()
    before = graphs()
    train_one()
    assert graphs() == before


def test_compute_loss_of_a_subclass_and_loss_of_compile_are_honoured(sampler):
    class Doubled(ANIL):
        def compute_loss(self, *args, **kwargs):
            return 2 * super().compute_loss(*args, **kwargs)

    model = make_model(inner_steps=1)
    backbone = model.backbone
    doubled = Doubled(backbone, ways=3, inner_steps=1, inner_lr=0.3)
    doubled.compile("adam")
    doubled.head.set_weights(model.head.get_weights())
    given = ANIL(backbone, ways=3, inner_steps=1, inner_lr=0.3)
    given.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    given.head.set_weights(model.head.get_weights())
    losses = [
        each.evaluate(episodes(sampler, 3), return_dict=True, verbose=0)["loss"]
        for each in (model, doubled, given)
    ]
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_regularisation_of_the_backbone_is_part_of_the_loss(sampler):
    def backbone(strength):
        return keras.Sequential(
            [
                keras.Input((12, 12, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(strength)),
            ]
        )

    plain, penalised = make_model(backbone(0.0)), make_model(backbone(1.0))
    penalised.set_weights(plain.get_weights())
    penalty = float(np.sum(np.square(plain.backbone.layers[-1].kernel.numpy())))
    losses = [
        each.evaluate(episodes(sampler, 2), return_dict=True, verbose=0)["loss"]
        for each in (plain, penalised)
    ]
    assert losses[1] - losses[0] == pytest.approx(penalty, rel=1e-2)


@pytest.mark.parametrize("kind", [ANIL, MAML])
def test_any_keras_model_is_a_backbone(sampler, kind):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(5)

        def call(self, images):
            return self.dense(self.flatten(tf.cast(images, tf.float32) / 255.0))

    model = make_model(Subclassed(), kind=kind, norm="task")
    fit(model, sampler, 2)
    assert model.head.kernel.shape == (5, 3)


def test_a_backbone_without_one_vector_an_image_is_refused():
    image = keras.Input((12, 12, 1))
    with pytest.raises(ValueError, match=r"one feature vector per image.*Received: output shape"):
        ANIL(keras.Model(image, keras.layers.Conv2D(2, 3)(image)))


@pytest.mark.parametrize("kind", [ANIL, MAML])
def test_any_keras_layer_is_a_head(sampler, tmp_path, kind):
    layers = [keras.layers.Dense(6, activation="relu"), keras.layers.Dense(3)]
    model = make_model(kind=kind, norm="task", head=keras.Sequential(layers), inner_lr=0.1)
    history = fit(model, sampler, 20, epochs=2)
    assert history["loss"][-1] < history["loss"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    dataset = episodes(sampler, 1)
    np.testing.assert_allclose(
        loaded.predict(dataset, verbose=0), model.predict(dataset, verbose=0), atol=1e-5
    )


def test_the_inner_rate_is_learned_only_when_asked(sampler):
    for learned in (True, False):
        model = make_model(learn_inner_lr=learned)
        fit(model, sampler)
        moved = abs(float(model.inner_lr) - 0.3) > 1e-6
        assert moved is learned


def test_each_step_has_a_rate_of_its_own_to_learn(sampler):
    model = make_model(learn_inner_lr="per_step")
    inputs, labels = next(iter(episodes(sampler, 1)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(
            cross_entropy(labels, model.adapt_and_predict(inputs, training=True).after)
        )
    first, second = tape.gradient(loss, model.log_inner_lr.value).numpy()
    assert first != second and 0 not in (first, second)
    fit(model, sampler, 2)
    assert np.all(model.inner_lr.numpy() != np.float32(0.3))


def test_a_shared_head_treats_classes_alike_and_takes_any_number(sampler):
    model = make_model(head_init="shared")
    rng = np.random.default_rng(0)
    support, query = (tf.constant(rng.normal(size=(1, 7, 4)), tf.float32) for _ in range(2))
    labels = np.arange(7)[np.newaxis]
    logits = model.adapt_head(support, tf.constant(labels), ways=7)(query).numpy()
    order = rng.permutation(7)
    permuted = model.adapt_head(support, tf.constant(order[labels]), ways=7)(query).numpy()
    np.testing.assert_allclose(permuted[..., order], logits, atol=1e-6)
    with pytest.raises(ValueError, match=r"has 3 classes\. Received: ways=7"):
        make_model(head_init="per_class").initial_head(7)


def test_task_norm_keeps_tasks_apart_and_evaluation_changes_nothing(sampler):
    model = make_model(norm="task")
    inputs, _ = next(iter(episodes(sampler, 1)))
    before = model.get_weights()
    together = model(inputs).numpy()
    alone = model({name: value[:1] for name, value in inputs.items()}).numpy()
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)
    assert_same(before, model.get_weights(), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 1}, "ways must be at least 2. Received: ways=1"),
        ({"inner_steps": -1}, "inner_steps must not be negative. Received: -1"),
        ({"inner_lr": 0}, "inner_lr must be positive. Received: inner_lr=0"),
        ({"learn_inner_lr": "yes"}, "learn_inner_lr must be one of .* Received: 'yes'"),
        ({"norm": "layer"}, "norm must be one of .* Received: 'layer'"),
        ({"inner_loop": "fast"}, "inner_loop must be one of .* Received: 'fast'"),
        ({"head_init": "zero"}, "head_init must be one of .* Received: head_init='zero'"),
        ({"loss": "hinge"}, "loss must be one of .* Received: loss='hinge'"),
        ({"head": keras.layers.Dense(3), "inner_loop": "gram"}, "'gram' needs the linear head"),
    ],
)
def test_bad_arguments_are_refused_with_what_was_received(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(compiled=False, **options)


def test_fused_batch_normalisation_is_keras_own(tmp_path):
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(2, 3, (4, 5, 5, 3)), tf.float32)
    results = []
    for layer in (BatchNormalization(momentum=0.8), keras.layers.BatchNormalization(momentum=0.8)):
        layer.build(inputs.shape)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(tf.sin(outputs) * tf.cos(inputs))
        gradients = tape.gradient(loss, [inputs, *layer.trainable_variables])
        frozen = layer(inputs, training=False)
        results.append([outputs, frozen, *gradients, *map(np.array, layer.get_weights())])
    assert_same(*results, 2e-4)


@pytest.mark.parametrize(
    ("backbone", "shape", "size"),
    [
        (backbones.conv4, (84, 84, 3), 800),
        (backbones.conv4_strided, (28, 28, 1), 64),
        (backbones.resnet12, (32, 32, 3), 640),
    ],
)
def test_backbones_give_features_of_the_published_size(backbone, shape, size):
    model = backbone(shape)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    features = model(images)
    assert features.shape == (2, size)
    np.testing.assert_allclose(features, model(images.astype(np.float32)), rtol=1e-5)


def test_cosine_features_have_unit_length_and_both_signs():
    model = backbones.conv4_strided((28, 28, 1), filters=8, pooling=False, cosine=True)
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1), np.uint8)
    features = model(images, training=True).numpy()
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    assert features.min() < 0 < features.max()
