"""`model.export`: Keras's own way to export, with the functions that learn new classes.

A bundle (`anil_tf.export.export_bundle`) has more: every format at once, verified, with a manifest.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from anil_tf import closed_form
from anil_tf.closed_form import Tensors
from anil_tf.embedding import EXPORTED_NORMS
from anil_tf.heads import LinearHead

FORMATS = ("tf_saved_model", "onnx", "litert")
ONNX_OPSET = 17

Endpoint = tuple[Callable[..., Any], list[Any]]


def export(
    model: Any,
    filepath: str | Path,
    format: str = "tf_saved_model",
    verbose: bool | None = None,
    *,
    image_dtype: str | None = None,
    **kwargs: Any,
) -> None:
    """Exports the model for inference, as `keras.Model.export` does.

    - `"tf_saved_model"`: the signatures `features`, `initial_head`, `adapt` and `predict` of a
      bundle, and `serve`, which takes and returns what the model does.
    - `"litert"`: the same signatures without `serve`.
    - `"onnx"`, which has one function per file: `support_image` `[M, ...]`, `support_labels` `[M]`
      and `query_image` `[Q, ...]` of one task to `logits` `[Q, ways]`. A model with a shared head
      takes the number of classes from the largest label.

    Args:
        model: The model.
        filepath: File to write, or folder for `"tf_saved_model"`.
        format: One of the formats above.
        verbose: Whether to print where the artifact was saved; by default it is printed.
        image_dtype: Dtype of the images, such as `"uint8"`; by default that of the backbone's
            input.
        **kwargs: Further arguments of `keras.Model.export`, of which none is supported.

    Raises:
        ValueError: The format or an argument is not supported, or the model has another head, loss
            or normalization than a head can be adapted with outside Keras.
    """
    if format not in FORMATS or kwargs:
        received = f"format={format!r}" if format not in FORMATS else ", ".join(kwargs)
        raise ValueError(
            f"export takes one of the formats {FORMATS}, verbose and image_dtype. "
            f"Received: {received}. anil_tf.export.export_bundle writes every format"
        )
    check_settings(model)
    if not model.built or not hasattr(model.backbone, "input_shape"):
        raise ValueError(
            "export needs a Functional or Sequential backbone, whose input shape is known. Use "
            "anil_tf.export.export_bundle, which reads the shape from its examples"
        )
    path = str(filepath)
    spec = model.backbone.inputs[0]
    shape, dtype = tuple(spec.shape[1:]), image_dtype or spec.dtype
    if format == "onnx":
        _Task(model).export(
            path,
            format="onnx",
            verbose=verbose,
            input_signature=[_task_specs(shape, dtype, axes=1)],
            opset_version=ONNX_OPSET,
        )
        return
    endpoints = _endpoints(model, shape, dtype)
    if format == "tf_saved_model":
        names = ("support_x", "support_y", "query_x")
        specs = dict(zip(names, _task_specs(shape, dtype, axes=2).values(), strict=True))
        serve = {"serve": (lambda inputs: model(inputs, training=False), [specs])}
        _write_archive(model, serve | endpoints, path)
    else:
        _write_litert(model, endpoints, path)
    if verbose is not False:
        print(f"Saved artifact at '{path}'.")


def check_settings(model: Any) -> None:
    """Checks that the model's inner loop can run outside Keras as it was trained.

    Raises:
        ValueError: The model has another head, loss, rate or normalization.
    """
    if not model.adapts_head or model.adapts_body:
        raise ValueError(
            "Only models whose inner loop adapts the head alone are exported, anil_tf.ANIL. "
            f"Received: {type(model).__name__}"
        )
    if not isinstance(model.head, LinearHead):
        raise ValueError("Only the linear head is exported: train without head=...")
    if model.loss_name != "cross_entropy":
        raise ValueError(
            "Only models with loss='cross_entropy' are exported: the exported inner loop is "
            f"classification. Received: loss={model.loss_name!r}"
        )
    if model.learn_inner_lr == "per_step":
        raise ValueError(
            "The exported inner loop has one learning rate: train with learn_inner_lr=true"
        )
    if model.norm not in EXPORTED_NORMS:
        raise ValueError(
            f"A model trained with norm='{model.norm}' normalises an image by those beside it. "
            "Exported, it would use moving averages that it was never trained or evaluated with: "
            "train with norm='batch' or norm='frozen' to export"
        )


def _task_specs(shape: tuple[int, ...], dtype: str, axes: int) -> dict[str, tf.TensorSpec]:
    """Inputs of one task (`axes=1`: rows) or of several (`axes=2`: tasks, rows)."""
    open_axes = [None] * axes
    return {
        "support_image": tf.TensorSpec([*open_axes, *shape], dtype, "support_image"),
        "support_labels": tf.TensorSpec(open_axes, tf.int32, "support_labels"),
        "query_image": tf.TensorSpec([*open_axes, *shape], dtype, "query_image"),
    }


def _features(model: Any, image: tf.Tensor) -> tf.Tensor:
    return tf.cast(model.backbone(image, training=False), tf.float32)


def _initial_head(model: Any, ways: tf.Tensor) -> Tensors:
    if model.head_init == "shared":
        kernel, bias = model.head.initial(ways)
        return {"kernel": kernel, "bias": bias}
    kernel, bias = model.head.initial()
    return {"kernel": kernel[:, :ways], "bias": bias[:ways]}


def _endpoints(model: Any, shape: tuple[int, ...], dtype: str) -> dict[str, Endpoint]:
    def features(image: tf.Tensor) -> Tensors:
        return {"features": _features(model, image)}

    def initial_head(ways: tf.Tensor) -> Tensors:
        return _initial_head(model, ways)

    size = model.backbone.output_shape[-1]
    features_of = {axis: tf.TensorSpec([None, size], tf.float32, "features") for axis in "MB"}
    head = [
        tf.TensorSpec([size, None], tf.float32, "kernel"),
        tf.TensorSpec([None], tf.float32, "bias"),
    ]
    return {
        "features": (features, [tf.TensorSpec([None, *shape], dtype, "image")]),
        "initial_head": (initial_head, [tf.TensorSpec([], tf.int32, "ways")]),
        "adapt": (
            closed_form.adapt,
            [
                features_of["M"],
                tf.TensorSpec([None], tf.int32, "labels"),
                *head,
                tf.TensorSpec([], tf.float32, "learning_rate"),
                tf.TensorSpec([], tf.int32, "steps"),
            ],
        ),
        "predict": (closed_form.predict, [features_of["B"], *head]),
    }


def _write_archive(model: Any, endpoints: dict[str, Endpoint], path: str) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, (function, specs) in endpoints.items():
        archive.add_endpoint(name, function, input_signature=specs)
    archive.write_out(path, verbose=False)


def _write_litert(model: Any, endpoints: dict[str, Endpoint], path: str) -> None:
    if not path.endswith(".tflite"):
        raise ValueError(f"filepath must end with .tflite for LiteRT. Received: {path}")
    with tempfile.TemporaryDirectory() as folder:
        _write_archive(model, endpoints, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(endpoints))
        content = converter.convert()
    Path(path).write_bytes(content)


class _Task(keras.Model):
    """Logits of the queries of one task, for a format with one function per file.

    Args:
        model: The model whose backbone, head and inner loop are used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(autocast=False, name="task")
        self.model = model
        self.built = True

    def call(self, inputs: Tensors) -> Tensors:
        """Adapts the head to the support set and applies it to the queries."""
        model, labels = self.model, inputs["support_labels"]
        shared = model.head_init == "shared"
        ways = tf.reduce_max(labels) + 1 if shared else tf.constant(model.ways)
        adapted = closed_form.adapt(
            _features(model, inputs["support_image"]),
            labels,
            **_initial_head(model, ways),
            learning_rate=model.inner_lr,
            steps=tf.constant(model.inner_steps),
        )
        query = _features(model, inputs["query_image"])
        head = adapted["adapted_kernel"], adapted["adapted_bias"]
        return {"logits": closed_form.predict(query, *head)["logits"]}
