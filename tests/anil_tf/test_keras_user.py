"""What a Keras user expects of the data, the losses and the configuration of a model."""

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
    EpisodeSampler,
    SinusoidSampler,
    backbones,
)
from anil_tf.adaptive import AdaptiveModel
from anil_tf.datasets.images import ClassImages
from anil_tf.metrics import EpisodeMeanSquaredError
from anil_tf.nil import Pretrained

WAYS, QUERIES = 3, 2


@pytest.fixture(scope="module")
def sampler() -> EpisodeSampler:
    images = np.random.default_rng(0).integers(0, 256, (48, 6, 6, 1)).astype(np.uint8)
    classes = ClassImages.from_arrays(images, np.repeat(np.arange(8), 6))
    return EpisodeSampler(classes, ways=WAYS, shots=1, queries=QUERIES)


def make_backbone() -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(4)]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers])


def make_model(kind=ANIL, compiled=True, **options):
    if issubclass(kind, AdaptiveModel):
        options = {"inner_steps": 1, "inner_lr": 0.3} | options
    model = kind(make_backbone(), **{"ways": WAYS, **options})
    if compiled:
        model.compile(keras.optimizers.SGD(0.1), metrics=[EpisodeAccuracy()])
    return model


def arrays(sampler, tasks=2):
    return next(iter(sampler.dataset(1, tasks).as_numpy_iterator()))


# Losses of one's own.


def absolute_error(targets, outputs):
    return tf.reduce_mean(tf.abs(outputs - targets), axis=-1)


def smoothed(labels, logits):
    one_hot = 0.1 / WAYS + 0.9 * tf.one_hot(labels, WAYS)
    return -tf.reduce_sum(one_hot * tf.nn.log_softmax(logits), axis=-1)


@pytest.mark.parametrize("kind", [ANIL, MAML, BOIL])
@pytest.mark.parametrize(
    "options",
    [
        {"loss": absolute_error, "targets": "float"},
        {"loss": keras.losses.Huber()},
        {"loss": keras.losses.mean_absolute_error},
    ],
    ids=["function", "Keras loss", "Keras function"],
)
def test_a_regression_loss_of_ones_own_fits_float_targets(kind, options):
    keras.utils.set_random_seed(1)
    model = kind(backbones.mlp((1,)), ways=1, inner_steps=1, inner_lr=0.01, **options)
    model.compile(keras.optimizers.Adam(0.01), metrics=[EpisodeMeanSquaredError()])
    history = model.fit(SinusoidSampler(5, 5).dataset(3, 2), verbose=0).history
    assert set(history) == {"loss", "mse", "mse_before_adaptation"} - (
        set() if kind is ANIL else {"mse_before_adaptation"}
    )
    assert 0 < history["loss"][0] < 100


def test_a_regression_loss_is_the_one_that_the_inner_loop_descends():
    losses = {}
    for loss, options in (
        ("mse", {}),
        (lambda y, x: tf.reduce_mean((y - x) ** 2, -1), {"targets": "float"}),
    ):
        keras.utils.set_random_seed(1)
        model = ANIL(
            backbones.mlp((1,)), ways=1, inner_steps=2, inner_lr=0.01, loss=loss, **options
        )
        losses[str(loss)] = model.predict(SinusoidSampler(5, 5).dataset(1, 2), verbose=0)
    first, second = losses.values()
    np.testing.assert_allclose(first, second, rtol=1e-5)


@pytest.mark.parametrize(
    "loss",
    [smoothed, keras.losses.SparseCategoricalCrossentropy(from_logits=True)],
    ids=["function", "Keras loss"],
)
def test_a_classification_loss_of_ones_own_leaves_padding_out(sampler, loss):
    model = make_model(loss=loss)
    inputs, labels = arrays(sampler)
    padded = {
        "support_x": np.concatenate([inputs["support_x"], inputs["support_x"][:, :1]], axis=1),
        "support_y": np.pad(inputs["support_y"], [(0, 0), (0, 1)], constant_values=-1),
        "query_x": inputs["query_x"],
    }
    np.testing.assert_allclose(model(padded), model(inputs), atol=1e-6)
    assert np.isfinite(model.fit(padded, labels, verbose=0).history["loss"][0])


def test_a_keras_cross_entropy_is_the_built_in_one(sampler):
    inputs, _ = arrays(sampler)
    own = make_model(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    np.testing.assert_allclose(own(inputs), make_model()(inputs), atol=1e-5)


def test_a_keras_loss_is_saved_with_the_model(tmp_path):
    model = ANIL(backbones.mlp((1,)), ways=1, loss=keras.losses.Huber(), inner_lr=0.01)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    data = SinusoidSampler(5, 5).dataset(1, 2)
    np.testing.assert_allclose(loaded.predict(data, verbose=0), model.predict(data, verbose=0))
    assert loaded.is_regression


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "int"}, "targets must be one of .* Received: 'int'"),
        ({"loss": "mse", "targets": "class"}, "loss='mse' takes targets='float'"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy()}, "outputs are logits.*from_logits"),
    ],
)
def test_a_loss_that_contradicts_its_targets_is_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


def test_a_loss_that_returns_no_value_per_row_is_rejected(sampler):
    model = make_model(loss=lambda labels, logits: tf.reduce_mean(logits))
    with pytest.raises(ValueError, match="loss must return one value per row"):
        model(arrays(sampler)[0])


def test_float_targets_for_a_classification_are_rejected_with_what_to_do():
    model = ANIL(backbones.mlp((1,)), ways=2, loss=absolute_error)
    model.compile("sgd")
    with pytest.raises(
        ValueError, match=r"targets='class' support_y needs 2 axes.*targets='float'"
    ):
        model.fit(SinusoidSampler(5, 5).dataset(1, 2), verbose=0)


# Configuration.

KINDS = [ANIL, MAML, BOIL, NIL, Pretrained]


@pytest.mark.parametrize("kind", KINDS)
def test_clone_and_config_keep_trainable_and_dtype(kind):
    model = make_model(kind, compiled=False, trainable=False, dtype="mixed_float16", norm="support")
    config = model.get_config()
    keys = set(config)
    for copy in (
        kind.from_config(config),
        kind.from_config(config),
        keras.models.clone_model(model),
    ):
        assert not copy.trainable and not copy.trainable_weights
        assert copy.dtype_policy.name == "mixed_float16"
        assert copy.norm == "support" and type(copy) is kind
    assert set(config) == keys and isinstance(config["backbone"], dict)


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_after_the_backbone_are_keywords(kind):
    with pytest.raises(TypeError, match="positional"):
        kind(make_backbone(), 5)


@pytest.mark.parametrize("kind", [NIL, Pretrained])
def test_a_model_without_an_inner_loop_takes_none_of_its_arguments(kind):
    with pytest.raises((TypeError, ValueError), match="inner_steps"):
        kind(make_backbone(), inner_steps=3)


def test_summary_shows_the_heads_output_shape(sampler, capsys):
    model = make_model()
    model.predict(sampler.dataset(1, 2), verbose=0)
    model.summary()
    head = next(line for line in capsys.readouterr().out.splitlines() if "LinearHead" in line)
    assert f", {WAYS})" in head and "?" not in head


def test_a_model_says_whether_it_is_transductive():
    found = {
        norm: make_model(compiled=False, norm=norm).is_transductive
        for norm in ("batch", "support", "task")
    }
    assert found == {"batch": False, "support": False, "task": True}


# Data.


def read(dataset):
    return [inputs["support_x"].tobytes() for inputs, _ in dataset.as_numpy_iterator()]


class Seen(ANIL):
    """Records the first support image of each training step."""

    def train_step(self, data):
        tf.py_function(
            lambda x: self.images.append(x.numpy().tobytes()), [data[0]["support_x"]], []
        )
        return super().train_step(data)


def fit_and_look(sampler, **options):
    model = Seen(make_backbone(), ways=WAYS, inner_steps=1, inner_lr=0.3)
    model.compile("sgd")
    model.images = []
    model.fit(sampler.dataset(2, 2), verbose=0, **options)
    return model.images


@pytest.mark.filterwarnings("error")
def test_fit_draws_new_episodes_in_each_epoch_and_the_epoch_decides_which(sampler):
    seen = fit_and_look(sampler, epochs=3)
    assert seen == read(sampler.dataset(6, 2))
    assert fit_and_look(sampler, epochs=3, initial_epoch=2) == seen[4:]


def test_an_epoch_is_its_own_episodes_where_several_steps_do_not_divide_it(sampler):
    model = Seen(make_backbone(), ways=WAYS, inner_steps=1, inner_lr=0.3)
    model.compile("sgd", steps_per_execution=2)
    model.images = []
    model.fit(sampler.dataset(3, 2), epochs=2, verbose=0)
    assert model.images == read(sampler.dataset(6, 2))


def test_validation_episodes_stay_the_same(sampler):
    model = make_model()
    model.optimizer.learning_rate = 0.0
    data = sampler.dataset(2, 2)
    history = model.fit(
        data, epochs=3, validation_data=sampler.dataset(2, 2, 90), verbose=0
    ).history
    assert len(set(history["val_loss"])) == 1 and len(set(history["loss"])) == 3
    assert read(data) == read(sampler.dataset(2, 2))  # the data set itself is as it was


def test_steps_per_epoch_reads_one_long_data_set(sampler):
    model = Seen(make_backbone(), ways=WAYS, inner_steps=1, inner_lr=0.3)
    model.compile("sgd")
    model.images = []
    model.fit(sampler.dataset(4, 2), epochs=2, steps_per_epoch=2, verbose=0)
    assert model.images == read(sampler.dataset(4, 2))


def test_a_resumed_fit_continues_with_the_episodes_of_its_epoch(sampler, tmp_path):
    class Interrupted(Exception):
        pass

    def stop(epoch, logs):
        if epoch == 1:
            raise Interrupted

    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    with pytest.raises(Interrupted):
        fit_and_look(
            sampler,
            epochs=3,
            callbacks=[backup, keras.callbacks.LambdaCallback(on_epoch_begin=stop)],
        )
    assert fit_and_look(sampler, epochs=3, callbacks=[backup]) == read(sampler.dataset(6, 2))[2:]


def test_early_stopping_knows_that_more_accuracy_is_better(sampler):
    model = make_model()
    stop = keras.callbacks.EarlyStopping(monitor="val_accuracy")
    model.fit(
        sampler.dataset(2, 2),
        validation_data=sampler.dataset(2, 2, 90),
        callbacks=[stop],
        verbose=0,
    )
    assert stop.monitor_op(2.0, 1.0)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("mse", r"compile\(loss='mse'\) compares floats, and this model classifies"),
        (keras.losses.Huber(), "compares floats, and this model classifies"),
        ("sparse_categorical_crossentropy", "outputs are logits"),
        (keras.losses.SparseCategoricalCrossentropy(), "outputs are logits"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_a_loss_of_compile_that_does_not_fit_is_rejected(sampler, loss, message, method):
    model = make_model(compiled=False)
    model.compile("sgd", loss=loss)
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(sampler.dataset(1, 2), verbose=0)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_images_and_labels_are_no_episodes(method):
    images, labels = np.zeros((4, 6, 6, 1)), np.zeros(4)
    arguments = [images] if method == "predict" else [images, labels]
    with pytest.raises(ValueError, match=f"{method} takes episodes, not images.*type ndarray"):
        getattr(make_model(), method)(*arguments)
    with pytest.raises(ValueError, match=r"with support_x, support_y, query_x\. Received: \['x'\]"):
        getattr(make_model(), method)({"x": images})


def loss_of_each_task(model, inputs, labels):
    return [
        model.evaluate(
            {name: value[[t]] for name, value in inputs.items()}, labels[[t]], verbose=0
        )[0]
        for t in range(len(labels))
    ]


@pytest.mark.parametrize("given", ["tasks", "queries"])
@pytest.mark.parametrize(
    "loss", [None, keras.losses.SparseCategoricalCrossentropy(from_logits=True)]
)
@pytest.mark.parametrize("tasks", [2, WAYS * QUERIES])
def test_weights_of_tasks_weigh_tasks_and_those_of_queries_queries(sampler, tasks, loss, given):
    model = make_model(compiled=False)
    model.compile("sgd", loss=loss, metrics=[EpisodeAccuracy()])
    inputs, labels = arrays(sampler, tasks)
    weights = np.arange(tasks, dtype=np.float32)
    expected = np.mean(weights * loss_of_each_task(model, inputs, labels))
    given_weights = weights if given == "tasks" else np.tile(weights[:, None], (1, labels.shape[1]))
    data = tf.data.Dataset.from_tensors((inputs, labels, given_weights))
    assert model.evaluate(data, verbose=0)[0] == pytest.approx(expected, rel=1e-4)
    assert model.fit(data, verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_class_weight_is_rejected(sampler):
    with pytest.raises(ValueError, match="class_weight has no meaning.*use sample_weight"):
        make_model().fit(sampler.dataset(1, 2), class_weight={0: 1.0, 1: 2.0, 2: 1.0})


@pytest.fixture(scope="module")
def traced_model() -> ANIL:
    """A model whose graphs several tests use. They may change its weights."""
    return make_model()


@pytest.mark.parametrize("method", ["fit", "evaluate", "validation"])
@pytest.mark.parametrize("which", ["support_y", "query_y"])
@pytest.mark.parametrize(
    ("shift", "received"), [(1, "from 1 to 3"), (10, "from 10 to 12"), (-10, "from -10 to -8")]
)
def test_labels_of_no_class_are_an_error_that_names_them(
    sampler, traced_model, method, which, shift, received
):
    inputs, labels = arrays(sampler)
    wrong = {**inputs, "support_y": inputs["support_y"] + shift * (which == "support_y")}
    labels = labels + shift * (which == "query_y")
    message = f"Labels are 0 to 2 with ways=3. Received: {which} {received}"
    model, data = traced_model, tf.data.Dataset.from_tensors((wrong, labels))
    with pytest.raises(ValueError, match=message) as caught:
        if method == "validation":
            model.fit(sampler.dataset(1, 2), validation_data=data, verbose=0)
        else:
            getattr(model, method)(data, verbose=0)
    assert str(caught.value).endswith("Number the classes of a task from 0; padding rows take -1")
    if method != "validation":
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(wrong, labels, verbose=0)


def test_padding_rows_beside_rows_of_a_class_are_welcome(sampler):
    inputs, labels = arrays(sampler)
    padding = np.arange(WAYS) == WAYS - 1
    inputs["support_y"] = np.where(padding, -1, inputs["support_y"])
    model = make_model()
    assert np.isfinite(
        model.fit(tf.data.Dataset.from_tensors((inputs, labels)), verbose=0).history["loss"][0]
    )


def test_padding_queries_do_not_count_as_wrong():
    metric = EpisodeAccuracy()
    metric.update_state(np.array([[0, 1, -1], [2, -1, -1]]), tf.one_hot([[0, 0, 0], [2, 1, 0]], 3))
    assert float(metric.result()) == pytest.approx((1 / 2 + 1) / 2)
