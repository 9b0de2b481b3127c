"""`model.export` after `fit`: every format that is written runs on its own runtime."""

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from anil_tf import ANIL, MAML, ClassImages, EpisodeSampler, backbones

SIGNATURES = ["features", "initial_head", "adapt", "predict"]
# Keras asks NumPy for a name that it has not had for years.
ignore_numpy_object = pytest.mark.filterwarnings("ignore:.*np.object.*:FutureWarning")


def tiny_model(head_init="shared", **settings):
    backbone = backbones.conv4((16, 16, 3), filters=8)
    return ANIL(backbone, ways=3, head_init=head_init, inner_lr=0.5, **settings)


@pytest.fixture(scope="module", params=["shared", "per_class"])
def fitted(request):
    """A model after `fit`, an episode batch of two tasks, and the model's logits."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (42, 16, 16, 3), np.uint8)
    classes = ClassImages.from_arrays(images, np.repeat(np.arange(6), 7))
    sampler = EpisodeSampler(classes, ways=3, shots=2, queries=2)
    model = tiny_model(request.param)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(sampler.dataset(batches=5, tasks=2), shuffle=False, verbose=0)
    inputs, _ = next(iter(sampler.dataset(batches=1, tasks=2)))
    return model, {key: value.numpy() for key, value in inputs.items()}, model(inputs).numpy()


def learn_and_predict(model, call, task):
    """Logits of a task's queries, by the four signatures."""
    support = call("features", image=task["support_x"])["features"]
    head = call("initial_head", ways=np.int32(3))
    adapted = call(
        "adapt",
        features=support,
        labels=task["support_y"],
        **head,
        learning_rate=np.float32(model.inner_lr),
        steps=np.int32(model.inner_steps),
    )
    assert adapted["rows_used"] == 6
    query = call("features", image=task["query_x"])["features"]
    return call(
        "predict", features=query, kernel=adapted["adapted_kernel"], bias=adapted["adapted_bias"]
    )["logits"]


def tasks(inputs):
    return [{key: value[task] for key, value in inputs.items()} for task in range(2)]


def test_a_saved_model_serves_what_the_model_computes(fitted, tmp_path, capsys):
    model, inputs, expected = fitted
    model.export(tmp_path / "served", image_dtype="uint8")
    assert "Saved artifact at" in capsys.readouterr().out
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    assert sorted(loaded.signatures) == sorted([*SIGNATURES, "serve", "serving_default"])
    served = loaded.serve({key: tf.constant(value) for key, value in inputs.items()})
    np.testing.assert_allclose(served, expected, atol=1e-5)

    def call(name, **arrays):
        outputs = loaded.signatures[name](**{k: tf.constant(v) for k, v in arrays.items()})
        return {key: value.numpy() for key, value in outputs.items()}

    for task, logits in zip(tasks(inputs), expected, strict=True):
        np.testing.assert_allclose(learn_and_predict(model, call, task), logits, atol=1e-5)


def test_a_session_as_tensorflow_serving_has_one_finds_the_weights(fitted, tmp_path):
    model, inputs, _ = fitted
    model.export(str(tmp_path / "served"), verbose=False)  # the backbone's own float32
    images = inputs["support_x"][0]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "served"))
        signature = graph.signature_def["features"]
        found = session.run(
            signature.outputs["features"].name,
            {signature.inputs["image"].name: images.astype(np.float32)},
        )
    np.testing.assert_allclose(found, model.backbone(images, training=False), atol=1e-5)


def test_a_litert_file_learns_and_predicts_with_built_in_operations(fitted, tmp_path):
    model, inputs, expected = fitted
    file = tmp_path / "model.tflite"
    model.export(file, format="litert", verbose=False, image_dtype="uint8")
    interpreter = Interpreter(str(file))  # has no operations of TensorFlow
    assert sorted(interpreter.get_signature_list()) == sorted(SIGNATURES)

    def call(name, **arrays):
        return interpreter.get_signature_runner(name)(**arrays)

    for task, logits in zip(tasks(inputs), expected, strict=True):
        np.testing.assert_allclose(learn_and_predict(model, call, task), logits, atol=1e-5)


@ignore_numpy_object
def test_an_onnx_file_predicts_the_queries_of_a_task(fitted, tmp_path):
    model, inputs, expected = fitted
    file = tmp_path / "model.onnx"
    model.export(file, format="onnx", verbose=False, image_dtype="uint8")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert {value.name for value in session.get_inputs()} == {
        "support_image",
        "support_labels",
        "query_image",
    }
    for task, logits in zip(tasks(inputs), expected, strict=True):
        (found,) = session.run(
            None,
            {
                "support_image": task["support_x"],
                "support_labels": task["support_y"],
                "query_image": task["query_x"],
            },
        )
        np.testing.assert_allclose(found, logits, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "openvino"}, "Received: format='openvino'. anil_tf.export.export_bundle"),
        ({"input_signature": []}, "Received: input_signature. anil_tf.export.export_bundle"),
        ({"format": "litert"}, "must end with .tflite"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message) as refused:
        tiny_model().export(tmp_path / "model", **arguments)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: tiny_model(norm="task"), "train with norm='batch' or norm='frozen' to export"),
        (lambda: tiny_model(loss="mse"), "loss='cross_entropy' are exported"),
        (lambda: MAML(backbones.conv4((16, 16, 3)), norm="task"), "adapts the head alone"),
    ],
)
def test_a_model_that_cannot_adapt_outside_keras_is_refused(tmp_path, model, message):
    with pytest.raises(ValueError, match=message):
        model().export(tmp_path / "model")
