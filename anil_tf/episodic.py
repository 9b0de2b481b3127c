"""`EpisodicModel`, the base of every algorithm: a backbone, a loss, and predictions for tasks."""

from typing import Any, get_args

import keras
import tensorflow as tf

from anil_tf import keras_export, losses
from anil_tf.embedding import POLICIES, Norm
from anil_tf.heads import KerasHead, LinearHead
from anil_tf.metrics import EpisodeAccuracy, EpisodeMeanSquaredError
from anil_tf.outer_loop import OuterLoop, Predictions


class EpisodicModel(OuterLoop):
    """A Keras model of whole tasks: it learns from a support set and predicts the queries.

    The base class of `ANIL`, `MAML`, `BOIL`, `NIL` and `Pretrained`. A subclass defines
    `adapt_and_predict`, and says with `adapts_body` and `adapts_head` what its inner loop changes.

    Args:
        backbone: A Keras model from inputs `[B, ...]` to features `[B, D]`.
        ways: Number of classes of a task, or of outputs of a regression.
        loss: Loss of one row; see `anil_tf.losses.get`.
        targets: Kind of the targets, for a loss of your own; see `anil_tf.losses.is_regression`.
        norm: Images whose statistics batch normalisation uses; see `anil_tf.embedding`.
        head: Head on the features, or None.
        **kwargs: Arguments of every Keras model: `name`, `trainable`, `dtype`.

    Raises:
        ValueError: An argument is out of its range.
    """

    adapts_body = False  # whether the inner loop changes the backbone
    adapts_head = False  # whether it changes the head
    inner_steps = 0
    first_order = False

    def __init__(
        self,
        backbone: keras.Model,
        *,
        ways: int = 5,
        loss: losses.Loss = "cross_entropy",
        targets: losses.Targets | None = None,
        norm: Norm = "batch",
        head: LinearHead | KerasHead | None = None,
        **kwargs: Any,
    ) -> None:
        # Inputs are not cast to the model's dtype: under mixed precision the backbone casts its
        # own, and adaptation and regression targets stay in float32.
        super().__init__(autocast=False, **kwargs)
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {get_args(Norm)}. Received: {norm!r}")
        self.is_regression = losses.is_regression(loss, targets)
        self.row_loss = losses.get(loss, self.is_regression)
        fewest = 1 if self.is_regression else 2
        if ways < fewest:
            raise ValueError(f"ways must be at least {fewest}. Received: ways={ways}")
        names = {function: name for name, function in losses.LOSSES.items()}
        self.loss_name = names.get(self.row_loss)
        self._given_loss, self._targets = loss, targets
        self.backbone = backbone
        self.head: Any = head  # `LinearHead`, `KerasHead` or None
        self.ways = ways
        self.norm = norm
        self.embedding = POLICIES[norm](backbone)
        self._query_loss = losses.QueryLoss(self.row_loss)
        self._before = (
            EpisodeMeanSquaredError(name="mse_before_adaptation")
            if self.is_regression
            else EpisodeAccuracy(name="accuracy_before_adaptation")
        )

    @property
    def is_transductive(self) -> bool:
        """Whether the prediction for a query depends on the other queries of its task."""
        return self.embedding.is_transductive

    @property
    def inner_lr(self) -> tf.Tensor:
        """The inner loop's learning rate: 0 for a model without an inner loop."""
        return tf.zeros(())

    def adapt_and_predict(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Predictions:
        """The queries' logits before and after adapting to each task.

        Args:
            inputs: `support_x`, `support_y` and `query_x` of T tasks.
            training: Whether the outer loop learns from the predictions.
            ways: Number of classes of these tasks; by default that of training.
            steps: Number of inner steps; by default the model's own.

        Returns:
            Logits `[T, Q, ways]` before adaptation, or None in training where they cost an extra
            pass, and logits `[T, Q, ways]` after it.
        """
        raise NotImplementedError

    def embed(
        self, support: tf.Tensor, query: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Features of the supports `[T, M, D]` and queries `[T, Q, D]`; see `Embedding.embed`."""
        return self.embedding.embed(support, query, training)

    def support_labels(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """`support_y` in its dtype: int32 classes `[T, M]` or float32 targets `[T, M, ways]`.

        The cast is needed: some distribution strategies pass integers as float32.

        Raises:
            ValueError: The labels have the shape of the other kind.
        """
        labels = inputs["support_y"]
        axes, kind = (3, "float") if self.is_regression else (2, "class")
        if labels.shape.rank not in (axes, None):
            raise ValueError(
                f"With targets={kind!r} support_y needs {axes} axes: [tasks, rows] for classes, "
                "[tasks, rows, outputs] for a regression, which takes loss='mse' or a loss of your "
                f"own with targets='float'. Received: shape {tuple(labels.shape)}"
            )
        return tf.cast(labels, tf.float32 if self.is_regression else tf.int32)

    # Keras's protocol.

    export = keras_export.export

    @property
    def compute_dtype(self) -> str:
        """That of the weights: adaptation is in float32 where the backbone is in half precision.

        Keras would otherwise read the head's weights in the precision of the model's policy.
        """
        dtype: str = self.variable_dtype
        return dtype

    def build(self, input_shape: dict[str, tuple[int | None, ...]]) -> None:
        """Builds the backbone if it is not built yet, and the head on it."""
        if self.head is None:
            if not self.backbone.built:
                self.backbone(_images(input_shape))
        elif not self.head.built:
            # A call builds any Keras model.
            self._build_head(self.backbone(_images(input_shape)).shape)
        self.built = True

    def _build_early(self) -> None:
        """Builds a model whose backbone knows its shapes, as a Functional or Sequential one does.

        A subclass calls it at the end of its constructor, when all its own weights exist.
        """
        if self.backbone.built and getattr(self.backbone, "inputs", None):
            self._build_head(self.backbone.output_shape)
            self.built = True

    def _build_head(self, features_shape: tuple[int | None, ...]) -> None:
        if len(features_shape) != 2 or features_shape[-1] is None:
            raise ValueError(
                "The backbone must give one feature vector per image, [B, D] with a known D. "
                f"Received: output shape {features_shape}. Add GlobalAveragePooling2D or Flatten."
            )
        if self.head is not None:
            self.head.build(features_shape)

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Logits `[T, Q, ways]` of the queries after adapting to each task's support set."""
        return self.adapt_and_predict(inputs, training).after

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "backbone": serialize(self.backbone),
            "ways": self.ways,
            "loss": self.loss_name or serialize(self._given_loss),
            "targets": self._targets,
            "norm": self.norm,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EpisodicModel":
        """Rebuilds backbone, head, loss and dtype from their configurations."""
        parts = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("backbone", "loss", "head", "dtype")
            if isinstance(config.get(key), dict)
        }
        return cls(**{**config, **parts})


def _images(input_shape: dict[str, tuple[int | None, ...]]) -> keras.KerasTensor:
    return keras.KerasTensor((None, *input_shape["support_x"][2:]))
