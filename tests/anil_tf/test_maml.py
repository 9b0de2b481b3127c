"""One engine: MAML, BOIL and ANIL differ in which weights the inner loop adapts."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anil_tf import ANIL, BOIL, MAML, backbones
from anil_tf.heads import LinearHead
from anil_tf.inner_loop import adapt_linear
from anil_tf.losses import cross_entropy
from anil_tf.maml import Weights, adapt_task, adapting_weights, initial_weights
from anil_tf.normalization import BatchNormalization, keeping_statistics

SHAPE, WAYS, SHOTS, QUERIES = (12, 12, 1), 3, 2, 2


class HeadOnly(MAML):
    """ANIL, by the general inner loop."""

    adapts_body = False


def draw_tasks(tasks: int = 2, seed: int = 0) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    rng = np.random.default_rng(seed)
    labels = np.arange(WAYS, dtype=np.int32)
    inputs = {
        "support_x": rng.integers(0, 256, (tasks, WAYS * SHOTS, *SHAPE)).astype(np.uint8),
        "support_y": np.tile(labels.repeat(SHOTS), (tasks, 1)),
        "query_x": rng.integers(0, 256, (tasks, WAYS * QUERIES, *SHAPE)).astype(np.uint8),
    }
    query_y = np.tile(labels.repeat(QUERIES), (tasks, 1))
    return {name: tf.constant(value) for name, value in inputs.items()}, tf.constant(query_y)


def make(kind: type[ANIL], **options) -> ANIL:
    keras.utils.set_random_seed(1)
    backbone = backbones.conv4_strided(SHAPE, filters=4, blocks=2)
    options = {"norm": "task", "inner_steps": 3, "inner_lr": 0.3} | options
    return kind(backbone, ways=WAYS, **options)


class Float64Model:
    """What `adapt_task` asks of a model: a tanh layer below a linear head."""

    row_loss, first_order, inner_steps = staticmethod(cross_entropy), False, 4
    head = LinearHead(WAYS)

    def __init__(self, inner_lr: tf.Tensor) -> None:
        self.inner_lr = inner_lr
        self.embedding = self

    def run(self, images, weights):
        return tf.tanh(tf.matmul(images, weights[0])), []


def draw_float64():
    rng = np.random.default_rng(0)
    values = {
        "support": rng.normal(size=(5, 6)),
        "query": rng.normal(size=(4, 6)),
        "hidden": rng.normal(size=(6, 7)),
        "kernel": rng.normal(size=(7, WAYS)),
        "bias": rng.normal(size=WAYS),
        "rate": np.array(0.2),
    }
    labels, query_labels = (tf.constant(rng.integers(0, WAYS, rows)) for rows in (5, 4))
    return {name: tf.constant(value) for name, value in values.items()}, labels, query_labels


def engine(values, labels, query_labels, adapting):
    """Query loss by the general inner loop."""
    model = Float64Model(values["rate"])
    start = Weights([values["hidden"]], [values["kernel"], values["bias"]])
    adapted = adapt_task(model, values["support"], labels, start, adapting)
    features, _ = model.run(values["query"], adapted.body)
    logits = features @ adapted.head[0] + adapted.head[1]
    return tf.reduce_mean(cross_entropy(query_labels, logits))


def test_on_the_head_alone_the_engine_is_the_gram_form_to_second_order():
    values, labels, query_labels = draw_float64()

    def gram(values):
        support, query = (tf.tanh(values[name] @ values["hidden"]) for name in ("support", "query"))
        adapted = adapt_linear(
            support[tf.newaxis], labels[tf.newaxis], values["kernel"], values["bias"],
            cross_entropy, values["rate"], Float64Model.inner_steps,
        )  # fmt: skip
        return tf.reduce_mean(cross_entropy(query_labels, adapted.logits(query[tf.newaxis])[0]))

    results = []
    for form in (lambda v: engine(v, labels, query_labels, [False, True, True]), gram):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = form(values)
        results.append({"loss": loss, **tape.gradient(loss, values)})
    for name, value in results[1].items():
        np.testing.assert_allclose(results[0][name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("adapting", [[True, True, True], [True, False, False]])
def test_second_order_gradients_of_maml_and_boil_agree_with_finite_differences(adapting):
    values, labels, query_labels = draw_float64()
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = engine(values, labels, query_labels, adapting)
    rng = np.random.default_rng(1)
    for name, gradient in tape.gradient(loss, values).items():
        direction = rng.normal(size=gradient.shape)
        up, down = (
            engine({**values, name: values[name] + h * direction}, labels, query_labels, adapting)
            for h in (1e-6, -1e-6)
        )
        numeric = float(up - down) / 2e-6
        assert float(tf.reduce_sum(gradient * direction)) == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("norm", ["task", "support"])
def test_maml_of_the_head_answers_as_anil(norm):
    anil, maml = make(ANIL, norm=norm), make(HeadOnly, norm=norm)
    inputs, _ = draw_tasks()
    for first, second in zip(
        anil.adapt_and_predict(inputs), maml.adapt_and_predict(inputs), strict=True
    ):
        np.testing.assert_allclose(second, first, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "moved"), [(MAML, (True, True)), (BOIL, (True, False)), (ANIL, (False, True))]
)
def test_what_adapts(kind, moved):
    model = make(kind)
    inputs, _ = draw_tasks()
    start = initial_weights(model)
    adapted = adapt_task(
        model, inputs["support_x"][0], inputs["support_y"][0], start, adapting_weights(model, start)
    )
    for before, after, expected in zip(start, adapted, moved, strict=True):
        for old, new in zip(before, after, strict=True):
            assert np.any(old != new) == expected


@pytest.mark.parametrize("kind", [ANIL, MAML, BOIL])
def test_the_supports_statistics_keep_queries_apart(kind):
    model = make(kind, norm="support")
    inputs, _ = draw_tasks()
    alone = {**inputs, "query_x": inputs["query_x"][:, :1]}
    together = model(inputs)
    np.testing.assert_allclose(model(alone), together[:, :1], atol=1e-5)
    transductive = make(kind, norm="task")
    assert np.abs(transductive(alone) - transductive(inputs)[:, :1]).max() > 1e-2


@pytest.mark.parametrize("layer", [BatchNormalization, keras.layers.BatchNormalization])
def test_statistics_are_kept_with_their_gradient_and_averages_left_alone(layer):
    image = keras.Input((4, 4, 3))
    model = keras.Sequential([image, layer(momentum=0.9)])
    rng = np.random.default_rng(0)
    images = tf.constant(rng.normal(2.0, 3.0, (5, 4, 4, 3)), tf.float32)
    before = model.get_weights()
    trainable, state = (
        [tf.convert_to_tensor(variable) for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    with tf.GradientTape() as tape:
        tape.watch(images)
        with keeping_statistics(model):
            _, (mean, variance) = model.stateless_call(trainable, state, images, training=True)
        total = tf.reduce_sum(mean) + tf.reduce_sum(variance)
    np.testing.assert_allclose(mean, np.mean(images, (0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(variance, np.var(images, (0, 1, 2)), rtol=1e-4)
    expected = (1 + 2 * (images - mean)) / (5 * 4 * 4)
    np.testing.assert_allclose(tape.gradient(total, images), expected, rtol=1e-3, atol=1e-5)
    assert model.layers[-1].momentum == 0.9
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("kind", [MAML, BOIL])
def test_a_task_is_answered_the_same_in_any_company(kind):
    model = make(kind)
    inputs, _ = draw_tasks()
    alone = {name: value[1:] for name, value in inputs.items()}
    np.testing.assert_allclose(model(alone), model(inputs)[1:], atol=1e-5)


def test_first_order_maml_takes_other_gradients_of_the_same_loss():
    inputs, labels = draw_tasks()
    results = []
    for first_order in (False, True):
        model = make(MAML, first_order=first_order)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                cross_entropy(labels, model.adapt_and_predict(inputs, training=True).after)
            )
        results.append((loss, tape.gradient(loss, model.head.kernel)))
    assert float(results[0][0]) == pytest.approx(float(results[1][0]), rel=1e-6)
    assert np.abs(results[0][1] - results[1][1]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "batch"}, "BOIL adapts the backbone.*norm='support'.*Received: norm='batch'"),
        ({"inner_loop": "gram"}, "'gram' adapts a head alone: BOIL needs 'tape'"),
        ({"head_init": "shared"}, "use head_init='per_class'. Received: head_init='shared'"),
    ],
)
def test_what_cannot_adapt_a_backbone_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(BOIL, **options)


def test_a_regressions_shared_head_may_stay():
    assert make(BOIL, head_init="shared", loss="mse").head_init == "shared"
