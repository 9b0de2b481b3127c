"""`AdaptiveModel`, the base of `ANIL`, `MAML` and `BOIL`: a head and an inner loop's settings."""

import math
from typing import Any, Literal, get_args

import keras
import tensorflow as tf

from anil_tf import losses
from anil_tf.embedding import Norm
from anil_tf.episodic import EpisodicModel
from anil_tf.heads import HeadInit, KerasHead, LinearHead

InnerLoop = Literal["auto", "tape", "gram"]


class AdaptiveModel(EpisodicModel):
    """An `EpisodicModel` that adapts to each task by gradient descent on its support set.

    Args:
        backbone: A Keras model from inputs `[B, ...]` to features `[B, D]`.
        ways: Number of classes of a task, or of outputs of a regression.
        head_init: Initial head; see `ANIL`.
        inner_steps: Number of gradient steps of the inner loop.
        inner_lr: Learning rate of the inner loop, or its initial value if it is learned.
        learn_inner_lr: Whether the outer loop trains the rate; `"per_step"` for one rate per step.
        first_order: Whether to leave out second derivatives.
        inner_loop: Form of the inner loop; see `ANIL`.
        loss: Loss of one row; see `ANIL`.
        targets: Kind of the targets, for a loss of your own; see `ANIL`.
        norm: Images whose statistics batch normalisation uses; see `ANIL`.
        head: A Keras layer to use in place of the linear head.
        **kwargs: Arguments of every Keras model: `name`, `trainable`, `dtype`.

    Raises:
        ValueError: An argument is out of its range, or two of them exclude each other.
    """

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
        **kwargs: Any,
    ) -> None:
        if inner_steps < 0:
            raise ValueError(f"inner_steps must not be negative. Received: {inner_steps}")
        if not inner_lr > 0:
            raise ValueError(f"inner_lr must be positive. Received: inner_lr={inner_lr}")
        for name, value, allowed in (
            ("inner_loop", inner_loop, get_args(InnerLoop)),
            ("learn_inner_lr", learn_inner_lr, (False, True, "per_step")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}. Received: {value!r}")
        if head is not None and inner_loop == "gram":
            raise ValueError(
                "inner_loop='gram' needs the linear head. Use 'auto' or 'tape' with head=..."
            )
        layer = LinearHead(ways, head_init) if head is None else KerasHead(head)
        super().__init__(
            backbone, ways=ways, loss=loss, targets=targets, norm=norm, head=layer, **kwargs
        )
        self.head_init = head_init
        self.inner_steps = inner_steps
        self.learn_inner_lr = learn_inner_lr
        self.first_order = first_order
        self.inner_loop = inner_loop
        self._initial_inner_lr = inner_lr
        self.log_inner_lr = self.add_weight(
            name="log_inner_lr",
            shape=(max(1, inner_steps),) if learn_inner_lr == "per_step" else (),
            initializer=keras.initializers.Constant(math.log(inner_lr)),
            dtype="float32",
            trainable=bool(learn_inner_lr),
        )
        self._build_early()

    @property
    def inner_lr(self) -> tf.Tensor:
        """The inner loop's learning rate: a float32 scalar, or `[inner_steps]` if per step."""
        return tf.exp(tf.convert_to_tensor(self.log_inner_lr))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        own = isinstance(self.head, KerasHead)
        return {
            **super().get_config(),
            "head_init": self.head_init,
            "inner_steps": self.inner_steps,
            "inner_lr": self._initial_inner_lr,
            "learn_inner_lr": self.learn_inner_lr,
            "first_order": self.first_order,
            "inner_loop": self.inner_loop,
            "head": keras.saving.serialize_keras_object(self.head.layer) if own else None,
        }
