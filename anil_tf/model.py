"""`ANIL`: a Keras model whose call adapts its head to a support set and predicts the queries."""

from collections.abc import Callable
from typing import Any, Literal

import keras
import tensorflow as tf

from anil_tf import losses
from anil_tf.adaptive import AdaptiveModel, InnerLoop
from anil_tf.embedding import Norm
from anil_tf.episode_data import IMAGE_CLASSES
from anil_tf.heads import CosineClassifier, HeadInit, LinearHead
from anil_tf.inner_loop import adapt_linear, tape_loop
from anil_tf.losses import task_loss
from anil_tf.outer_loop import Predictions
from anil_tf.tasks import sizes


@keras.saving.register_keras_serializable(package="anil_tf")
class ANIL(AdaptiveModel):
    """Almost No Inner Loop (Raghu et al., ICLR 2020, https://arxiv.org/abs/1909.09157).

    Meta-learns a backbone and a head. The inner loop adapts **only the head** to a task's support
    set; the outer loop trains backbone, head and, if asked, the inner learning rate, through that
    adaptation. Train it with `compile` and `fit` like any Keras model.

    An element of the data set is `({"support_x": [T, M, ...], "support_y": [T, M] int32,
    "query_x": [T, Q, ...]}, query_y [T, Q] int32)`: T tasks of M support and Q query rows. A third
    part, if any, is the sample weight: `[T]` weighs the tasks, `[T, Q]` the queries. Labels are
    `0..ways-1`; negative labels mark padding rows. `fit` and `evaluate` reject other labels.

    Without a loss in `compile`, the loss of the queries is that of the inner loop. Besides the
    metrics given to `compile`, `fit` and `evaluate` report `accuracy_before_adaptation` (for a
    regression, `mse_before_adaptation`): the metric under the initial head. The difference from
    `accuracy` is what the inner loop gains.

    `model.head` is the layer that the inner loop adapts: a `LinearHead`, or a `KerasHead` around
    the layer given as `head`. `model.inner_lr` is a tensor, since the rate may be learned.

    Args:
        backbone: A Keras model from inputs `[B, ...]` to features `[B, D]`.
        ways: Number of classes of a task, or of outputs of a regression.
        head_init: `"per_class"` for one learned column per class, as in the paper; or `"shared"`
            for one column for all classes: their order does not matter, and the model adapts to
            any number of classes.
        inner_steps: Number of gradient steps of the inner loop, in training and by default later.
        inner_lr: Learning rate of the inner loop, or its initial value if it is learned.
        learn_inner_lr: Whether the outer loop trains the rate (its logarithm, so that it stays
            positive; Li et al. 2017, Meta-SGD, with one rate). `"per_step"` trains one rate for
            each inner step (Antoniou et al. 2019, MAML++); later steps use the last rate.
        first_order: Whether to leave out second derivatives.
        inner_loop: `"gram"` (exact and fast, linear head), `"tape"` (any head), or `"auto"`.
        loss: `"cross_entropy"`, `"mse"`, a function of `(labels, logits)` that returns one loss
            per row, or a Keras loss such as `keras.losses.Huber()`. To save the model, register
            a function of your own with Keras.
        targets: `"class"` if the loss compares integer labels `[T, M]` with logits, `"float"` for a
            regression with targets `[T, M, ways]`. Needed for a regression loss of your own; the
            losses of this package and of Keras are known.
        norm: `"batch"`: batch norm uses the statistics of the whole meta-batch in training and
            moving averages afterwards (inductive: the exported model is the one evaluated).
            `"frozen"`: moving averages in training too, and no dropout, for a backbone that was
            trained before (inductive).
            `"support"`: statistics of the task's support set, for its queries too (inductive;
            MetaBN in Bronskill et al. 2020). `"task"`: always the statistics of the images at
            hand, support and query apart, as in the paper's code (transductive).
        head: A Keras layer from `[M, D]` to `[M, ways]` to adapt in place of the linear head.
        image_classes: Number of classes that training also classifies each image among, support
            and query, by a `CosineClassifier` on the same features; 0 for none (Oreshkin et al.
            2018, TADAM, section 3.4). It makes better features of few classes in less time, and is
            not exported. The inputs then have `image_classes [T, M + Q]` too: those of an
            `EpisodeSampler(..., image_classes=True)`, which has `sampler.classes` of them.
        image_weight: Weight of the loss of that classification, added to that of the queries.
        **kwargs: Arguments of every Keras model: `name`, `trainable`, `dtype`.

    Raises:
        ValueError: An argument is out of its range, or two of them exclude each other.

    Example:
        model = ANIL(backbones.conv4_strided((28, 28, 1)), ways=5, head_init="shared")
        model.compile("adam", metrics=[EpisodeAccuracy()])
        model.fit(sampler.dataset(batches=1000, tasks=8), epochs=10, shuffle=False)
    """

    adapts_head = True
    classifier: Any = None  # `CosineClassifier` or None

    def __init__(
        self,
        backbone: keras.Model,
        *,
        ways: int = 5,
        head_init: HeadInit = "per_class",
        inner_steps: int = 5,
        inner_lr: float = 0.1,
        learn_inner_lr: bool | Literal["per_step"] = False,
        first_order: bool = False,
        inner_loop: InnerLoop = "auto",
        loss: losses.Loss = "cross_entropy",
        targets: losses.Targets | None = None,
        norm: Norm = "batch",
        head: keras.layers.Layer | None = None,
        image_classes: int = 0,
        image_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if image_classes < 0 or not image_weight > 0:
            raise ValueError(
                "image_classes must not be negative and image_weight must be positive. Received: "
                f"image_classes={image_classes}, image_weight={image_weight}"
            )
        super().__init__(
            backbone,
            ways=ways,
            head_init=head_init,
            inner_steps=inner_steps,
            inner_lr=inner_lr,
            learn_inner_lr=learn_inner_lr,
            first_order=first_order,
            inner_loop=inner_loop,
            loss=loss,
            targets=targets,
            norm=norm,
            head=head,
            **kwargs,
        )
        self.image_classes, self.image_weight = image_classes, image_weight
        if image_classes:
            self.classifier = CosineClassifier(image_classes)
            if self.built:
                self.classifier.build(self.backbone.output_shape)

    def initial_head(self, ways: int | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """The linear head before adaptation: kernel `[D, ways]`, bias `[ways]`."""
        kernel, bias = self.head.initial(ways)
        return kernel, bias

    def adapt_head(
        self,
        support: tf.Tensor,
        labels: tf.Tensor,
        ways: int | None = None,
        learning_rate: float | tf.Tensor | None = None,
        steps: int | None = None,
    ) -> Callable[[tf.Tensor], tf.Tensor]:
        """Runs the inner loop on T tasks at once.

        Args:
            support: Features `[T, M, D]`.
            labels: Integers `[T, M]`; those outside `0..ways-1` are padding. For a regression,
                float targets `[T, M, ways]`.
            ways: Number of classes of these tasks; by default that of training.
            learning_rate: Learning rate, a scalar or `[k]`, one per step; by default the model's.
            steps: Number of steps; by default the model's.

        Returns:
            A function from query features `[T, Q, D]` to logits `[T, Q, ways]`. With the linear
            head and the Gram form it is `LinearAdaptation.logits`.
        """
        learning_rate = self.inner_lr if learning_rate is None else learning_rate
        steps = self.inner_steps if steps is None else steps
        initial = self.head.initial(ways)
        if isinstance(self.head, LinearHead) and self.inner_loop != "tape":
            kernel, bias = initial
            adaptation = adapt_linear(
                support, labels, kernel, bias, self.row_loss, learning_rate, steps, self.first_order
            )
            return adaptation.logits

        tasks = sizes(support, 1)[0]
        parameters = [
            tf.tile(value[tf.newaxis], [tasks] + [1] * value.shape.rank) for value in initial
        ]
        adapted = tape_loop(
            lambda head: task_loss(self.row_loss, labels, self.head.apply(head, support)),
            parameters,
            learning_rate,
            steps,
            self.first_order,
        )
        return lambda query: self.head.apply(adapted, query)

    def adapt_and_predict(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Predictions:
        """The queries' logits before and after adapting the head to each task.

        Arguments and result are those of `EpisodicModel.adapt_and_predict`.
        """
        support, query = self.embed(inputs["support_x"], inputs["query_x"], training)
        return self._predict(inputs, support, query, ways, steps)

    def predict_in_training(
        self, inputs: dict[str, tf.Tensor]
    ) -> tuple[Predictions, tf.Tensor | None]:
        """The predictions to learn from, and the loss of `image_classes`, if there are any."""
        if self.classifier is None:
            return super().predict_in_training(inputs)
        support, query = self.embed(inputs["support_x"], inputs["query_x"], training=True)
        return self._predict(inputs, support, query), self._classify(inputs, support, query)

    def _predict(
        self,
        inputs: dict[str, tf.Tensor],
        support: tf.Tensor,
        query: tf.Tensor,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Predictions:
        labels = self.support_labels(inputs)
        before = self.head(query, ways=ways)
        return Predictions(before, self.adapt_head(support, labels, ways, steps=steps)(query))

    def _classify(
        self, inputs: dict[str, tf.Tensor], support: tf.Tensor, query: tf.Tensor
    ) -> tf.Tensor:
        """The weighted loss of classifying each image among all classes."""
        if IMAGE_CLASSES not in inputs:
            raise ValueError(
                f"A model with image_classes={self.image_classes} needs the inputs' "
                f"{IMAGE_CLASSES} [tasks, images] in training. Received: {sorted(inputs)}"
            )
        classes = tf.cast(inputs[IMAGE_CLASSES], tf.int32)
        logits = self.classifier(tf.concat([support, query], axis=1))
        counted = tf.cast(classes >= 0, logits.dtype)
        rows = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(classes, 0), logits)
        return self.image_weight * tf.reduce_sum(counted * rows) / tf.reduce_sum(counted)

    def _build_head(self, features_shape: tuple[int | None, ...]) -> None:
        super()._build_head(features_shape)
        if self.classifier is not None:
            self.classifier.build(features_shape)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "image_classes": self.image_classes,
            "image_weight": self.image_weight,
        }
