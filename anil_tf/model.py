"""`ANIL`, a Keras model whose call adapts its head to a support set and answers the queries."""

import contextlib
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import keras
import tensorflow as tf

from anil_tf import losses
from anil_tf.heads import FLOATS, HeadInit, KerasHead, LinearHead, map_tasks
from anil_tf.inner_loop import Tensors, adapt_linear, tape_loop
from anil_tf.metrics import EpisodeAccuracy, EpisodeMeanSquaredError
from anil_tf.normalization import keeping_statistics
from anil_tf.outer_loop import Answers, OuterLoop

InnerLoop = Literal["auto", "tape", "gram"]
Norm = Literal["batch", "support", "task"]


@keras.saving.register_keras_serializable(package="anil_tf")
class ANIL(OuterLoop):
    """Almost No Inner Loop (Raghu et al., ICLR 2020, https://arxiv.org/abs/1909.09157).

    Meta-learns a backbone and a head. The inner loop adapts **only the head** to a task's support
    set; the outer loop trains backbone, head and, when asked, the inner learning rate, through
    that adaptation. Train it with `compile` and `fit` like any Keras model:

        model = ANIL(backbones.conv4_strided((28, 28, 1)), ways=5, head_init="shared")
        model.compile("adam", metrics=[EpisodeAccuracy()])
        model.fit(sampler.dataset(batches=1000, tasks=8))

    An element of the data set is `({"support_x": [T, M, ...], "support_y": [T, M] int32,
    "query_x": [T, Q, ...]}, query_y [T, Q] int32)`: T tasks of M support and Q query rows.
    Without a loss in `compile`, the queries' loss is the inner loop's.

    Args:
        backbone: A Keras model from inputs `[B, ...]` to features `[B, D]`.
        ways: Classes of a task (or outputs of a regression).
        head_init: `"per_class"`, one learned column a class, as in the paper; or `"shared"`, one
            column for all: order does not matter, any number of classes when adapting.
        inner_steps: Gradient steps of the inner loop, in training and by default afterwards.
        inner_lr: Their learning rate, or its initial value when learned.
        learn_inner_lr: Train the rate in the outer loop (its logarithm, so that it stays positive;
            Li et al. 2017, Meta-SGD, with one rate). `"per_step"`: a rate for each inner step
            (Antoniou et al. 2019, MAML++); steps beyond those of training use the last.
        first_order: Leave out second derivatives.
        inner_loop: `"gram"` (exact and fast, linear head), `"tape"` (any head), or `"auto"`.
        loss: `"cross_entropy"`, `"mse"`, or a function of `(labels, logits)` giving each row's
            loss; a function is registered with Keras by its author if the model is to be saved.
        norm: `"batch"`: batch norm uses the statistics of the whole meta-batch in training and
            moving averages afterwards (inductive: what is exported is what was evaluated).
            `"support"`: the statistics of the task's support set, for its queries too (inductive;
            MetaBN in Bronskill et al. 2020). `"task"`: always the statistics of the images at
            hand, support and query apart, as in the paper's code (transductive).
        head: A Keras layer to adapt in place of the linear head, from `[M, D]` to `[M, ways]`.

    Raises:
        ValueError: An argument is out of its range, or two of them exclude each other.
    """

    adapts_body, adapts_head = False, True  # what the inner loop moves

    def __init__(
        self,
        backbone: keras.Model,
        ways: int = 5,
        head_init: HeadInit = "per_class",
        inner_steps: int = 5,
        inner_lr: float = 0.1,
        learn_inner_lr: bool | Literal["per_step"] = False,
        first_order: bool = False,
        inner_loop: InnerLoop = "auto",
        loss: str | losses.RowLoss = "cross_entropy",
        norm: Norm = "batch",
        head: keras.layers.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        # Inputs are not cast to the model's dtype: under mixed precision the backbone casts its
        # own, and adaptation and regression targets stay in float32.
        super().__init__(autocast=False, **kwargs)
        self.loss_name = loss if isinstance(loss, str) else None
        self.row_loss = losses.get(loss)
        fewest = 2 if self.row_loss is losses.cross_entropy else 1
        if ways < fewest:
            raise ValueError(f"ways must be at least {fewest}. Received: ways={ways}")
        if inner_steps < 0:
            raise ValueError(f"inner_steps must not be negative. Received: {inner_steps}")
        if not inner_lr > 0:
            raise ValueError(f"inner_lr must be positive. Received: inner_lr={inner_lr}")
        for name, value, allowed in (
            ("inner_loop", inner_loop, get_args(InnerLoop)),
            ("norm", norm, get_args(Norm)),
            ("learn_inner_lr", learn_inner_lr, (False, True, "per_step")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}. Received: {value!r}")
        if head is not None and inner_loop == "gram":
            raise ValueError(
                "inner_loop='gram' needs the linear head. Use 'auto' or 'tape' with head=..."
            )

        self.backbone = backbone
        self.head = LinearHead(ways, head_init) if head is None else KerasHead(head)
        self.ways = ways
        self.head_init = head_init
        self.inner_steps = inner_steps
        self.learn_inner_lr = learn_inner_lr
        self.first_order = first_order
        self.inner_loop = inner_loop
        self.norm = norm
        self._initial_inner_lr = inner_lr
        self._query_loss = losses.QueryLoss(self.row_loss)
        self._before = (
            EpisodeMeanSquaredError(name="mse_before_adaptation")
            if self.row_loss is losses.mean_squared_error
            else EpisodeAccuracy(name="accuracy_before_adaptation")
        )
        self.log_inner_lr = self.add_weight(
            name="log_inner_lr",
            shape=(max(1, inner_steps),) if learn_inner_lr == "per_step" else (),
            initializer=keras.initializers.Constant(math.log(inner_lr)),
            dtype="float32",
            trainable=bool(learn_inner_lr),
        )
        if backbone.built and getattr(backbone, "inputs", None):  # Functional or Sequential
            self._build_head(backbone.output_shape)
            self.built = True

    @property
    def inner_lr(self) -> tf.Tensor:
        """The inner loop's learning rate: a float32 scalar, or `[inner_steps]` if per step."""
        return tf.exp(tf.convert_to_tensor(self.log_inner_lr))

    def build(self, input_shape: dict[str, tuple[int | None, ...]]) -> None:
        """Builds a backbone that was not, and the head on it."""
        if not self.head.built:
            images = keras.KerasTensor((None, *input_shape["support_x"][2:]))
            self._build_head(self.backbone(images).shape)  # a call builds any Keras model
        self.built = True

    def _build_head(self, features_shape: tuple[int | None, ...]) -> None:
        if len(features_shape) != 2 or features_shape[-1] is None:
            raise ValueError(
                "The backbone must give one feature vector an image, [B, D] with a known D. "
                f"Received: output shape {features_shape}. Add GlobalAveragePooling2D or Flatten."
            )
        self.head.build(features_shape)

    # The four parts that also make the exported signatures.

    def features(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features `[B, D]` in float32 of images `[B, ...]`."""
        if self.norm == "batch":
            return tf.cast(self.backbone(images, training=training), tf.float32)
        return self.run_backbone(images)[0]

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
            support: Features, `[T, M, D]`.
            labels: Integers `[T, M]`; those outside `0..ways-1` are padding. For a regression,
                float targets `[T, M, ways]`.
            ways: Classes of these tasks; those of training by default.
            learning_rate: The model's own by default; a scalar, or `[k]`, one a step.
            steps: The model's own by default.

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

        tasks = _sizes(support, 1)[0]
        parameters = [
            tf.tile(value[tf.newaxis], [tasks] + [1] * value.shape.rank) for value in initial
        ]
        adapted = tape_loop(
            lambda head: losses.task_loss(self.row_loss, labels, self.head.apply(head, support)),
            parameters,
            learning_rate,
            steps,
            self.first_order,
        )
        return lambda query: self.head.apply(adapted, query)

    # Whole episodes.

    def answer(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Answers:
        """The queries' logits before and after adapting to each task, `[T, Q, ways]` each.

        Args:
            inputs: `support_x`, `support_y` and `query_x` of T tasks.
            training: Whether the outer loop is to learn from the answers.
            ways: Classes of these tasks; those of training by default.
            steps: Of the inner loop; the model's own by default.

        Returns:
            The logits before, or None in training where they cost a pass of their own; and after.
        """
        labels = self.support_labels(inputs)
        support, query = self.embed(inputs["support_x"], inputs["query_x"], training)
        before = self.head(query, ways=ways)
        return before, self.adapt_head(support, labels, ways, steps=steps)(query)

    def support_labels(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """`support_y` in its dtype: some distribution strategies hand integers over as float32."""
        regression = self.row_loss is losses.mean_squared_error
        return tf.cast(inputs["support_y"], tf.float32 if regression else tf.int32)

    def embed(
        self, support: tf.Tensor, query: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Features of the support `[T, M, D]` and of the queries `[T, Q, D]`."""
        if self.norm != "batch":
            support, query = map_tasks(self.embed_task, support, query, returns=(FLOATS, FLOATS))
            return support, query
        # One pass of the backbone over every image of the meta-batch.
        images = tf.concat([support, query], axis=1)
        features = self.features(tf.reshape(images, [-1, *images.shape[2:]]), training)
        features = tf.reshape(features, [*_sizes(images, 2), features.shape[-1]])
        return tf.split(features, [_sizes(support, 2)[1], _sizes(query, 2)[1]], axis=1)

    def embed_task(
        self, support: tf.Tensor, query: tf.Tensor, weights: Tensors | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Features of one task's support `[M, D]` and queries `[Q, D]`, outside training.

        Args:
            support: Images `[M, ...]`.
            query: Images `[Q, ...]`.
            weights: In place of the backbone's trainable variables.
        """
        features, statistics = self.run_backbone(support, weights)
        return features, self.run_backbone(
            query, weights, statistics if self.norm == "support" else None
        )[0]

    def run_backbone(
        self,
        images: tf.Tensor,
        weights: Tensors | None = None,
        statistics: Tensors | None = None,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """A pass that changes no variable, normalised as `norm` says.

        Args:
            images: `[B, ...]`.
            weights: In place of the backbone's trainable variables.
            statistics: Of the pass over the support set, with `norm="support"`; without them the
                images' own.

        Returns:
            Features `[B, D]` in float32, and the statistics of the pass.
        """
        variables = self.backbone.trainable_variables if weights is None else weights
        state = self.backbone.non_trainable_variables if statistics is None else statistics
        own = self.norm == "task" or (self.norm == "support" and statistics is None)
        # Unlike a plain call, a stateless one hands `training` on to a model that does not take it.
        takes_training = "training" in inspect.signature(self.backbone.call).parameters
        keep = own and self.norm == "support"  # only then: it costs the fused kernel
        with keeping_statistics(self.backbone) if keep else contextlib.nullcontext():
            features, after = self.backbone.stateless_call(
                [tf.convert_to_tensor(value) for value in variables],
                [tf.convert_to_tensor(value) for value in state],
                images,
                **({"training": own} if takes_training else {}),
            )
        return tf.cast(features, tf.float32), after

    # Keras's protocol.

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Logits `[T, Q, ways]` of the queries after adapting to each task's support set."""
        return self.answer(inputs, training)[1]

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        serialize = keras.saving.serialize_keras_object
        linear = isinstance(self.head, LinearHead)
        return {
            "name": self.name,
            "backbone": serialize(self.backbone),
            "ways": self.ways,
            "head_init": self.head_init,
            "inner_steps": self.inner_steps,
            "inner_lr": self._initial_inner_lr,
            "learn_inner_lr": self.learn_inner_lr,
            "first_order": self.first_order,
            "inner_loop": self.inner_loop,
            "loss": self.loss_name or serialize(self.row_loss),
            "norm": self.norm,
            "head": None if linear else serialize(self.head.layer),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ANIL":
        """Rebuilds backbone, head and loss from their configurations."""
        deserialize = keras.saving.deserialize_keras_object
        config["backbone"] = deserialize(config["backbone"])
        for key in ("loss", "head"):
            if isinstance(config[key], dict):
                config[key] = deserialize(config[key])
        return cls(**config)


def _sizes(tensor: tf.Tensor, axes: int) -> list[int | tf.Tensor]:
    """The first sizes of a tensor: Python ints where they are known, tensors where not."""
    dynamic = tf.shape(tensor)
    return [
        dynamic[axis] if tensor.shape[axis] is None else tensor.shape[axis] for axis in range(axes)
    ]
