"""`MAML` and `BOIL`: models whose inner loop adapts the backbone too.

`ANIL` is the special case in which the head alone adapts; its `Gram` form makes that fast. Here the
inner loop takes any of the model's weights (`adapt_task`), and each task runs on a backbone of its
own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from anil_tf.heads import LinearHead
from anil_tf.inner_loop import tape_loop
from anil_tf.losses import mean_squared_error, task_loss
from anil_tf.model import ANIL, Norm
from anil_tf.outer_loop import Answers


class Weights(NamedTuple):
    """The weights of one task.

    `body` is in the order of the backbone's trainable variables, `head` as `head.initial` gives it.
    """

    body: list[tf.Tensor]
    head: list[tf.Tensor]


def initial_weights(model: ANIL, ways: int | None = None) -> Weights:
    """The weights from which every task starts."""
    body = [tf.convert_to_tensor(variable) for variable in model.backbone.trainable_variables]
    return Weights(body, model.head.initial(ways))


def adapting_weights(model: ANIL, weights: Weights) -> list[bool]:
    """Of each weight, those of the body and then those of the head, whether the model adapts it."""
    body, head = (len(part) for part in weights)
    return [model.adapts_body] * body + [model.adapts_head] * head


def adapt_task(
    model: ANIL,
    support: tf.Tensor,
    labels: tf.Tensor,
    initial: Weights,
    adapting: Sequence[bool],
    steps: int | None = None,
) -> Weights:
    """Runs the inner loop of one task on some of the weights.

    Args:
        model: Gives backbone, head, loss and learning rate.
        support: Images `[M, ...]`.
        labels: Integers `[M]`, or float targets `[M, ways]` for a regression.
        initial: Where the loop starts.
        adapting: Of each weight, those of the body and then those of the head, whether it adapts.
        steps: The model's own by default.

    Returns:
        The weights after it, differentiable with respect to `initial` and the learning rate.
    """
    everything = [*initial.body, *initial.head]

    def merge(adapted: Sequence[tf.Tensor]) -> Weights:
        moved = iter(adapted)
        merged = [
            next(moved) if moves else weight
            for moves, weight in zip(adapting, everything, strict=True)
        ]
        return Weights(merged[: len(initial.body)], merged[len(initial.body) :])

    def support_loss(adapted: Sequence[tf.Tensor]) -> tf.Tensor:
        weights = merge(adapted)
        features, _ = model.run_backbone(support, weights.body)
        return task_loss(model.row_loss, labels, apply_head(model, weights.head, features))

    adapted = tape_loop(
        support_loss,
        [weight for moves, weight in zip(adapting, everything, strict=True) if moves],
        model.inner_lr,
        model.inner_steps if steps is None else steps,
        model.first_order,
    )
    return merge(adapted)


def apply_head(model: ANIL, head: Sequence[tf.Tensor], features: tf.Tensor) -> tf.Tensor:
    """Logits `[M, ways]` of one task's features `[M, D]` under a head's weights."""
    return model.head.apply([weight[tf.newaxis] for weight in head], features[tf.newaxis])[0]


@keras.saving.register_keras_serializable(package="anil_tf")
class MAML(ANIL):
    """Model-Agnostic Meta-Learning (Finn et al., ICML 2017, https://arxiv.org/abs/1703.03400).

    Backbone and head adapt to each task; `first_order=True` is its first-order approximation. Data,
    training and arguments are those of `ANIL`, but for `norm`:

    Args:
        backbone: A Keras model from inputs `[B, ...]` to features `[B, D]`.
        ways: Classes of a task (or outputs of a regression).
        norm: `"support"` (inductive) or `"task"` (transductive, as in the paper). Moving averages
            belong to no adapted backbone, so `"batch"` is refused.
        **kwargs: As of `ANIL`. A shared head starts at zero, from where the first step moves the
            head alone; `head_init="per_class"` is MAML's.

    Raises:
        ValueError: As of `ANIL`; `norm="batch"`; `inner_loop="gram"`.
    """

    adapts_body, adapts_head = True, True

    def __init__(
        self, backbone: keras.Model, ways: int = 5, *, norm: Norm = "support", **kwargs: Any
    ) -> None:
        name = type(self).__name__
        if norm == "batch":
            raise ValueError(
                f"{name} adapts the backbone, and no adapted backbone has moving averages of its "
                "own: use norm='support' (inductive) or norm='task' (transductive, as in the "
                "paper). Received: norm='batch'"
            )
        if kwargs.get("inner_loop") == "gram":
            raise ValueError(f"inner_loop='gram' adapts a head alone: {name} needs 'tape'")
        super().__init__(backbone, ways, norm=norm, **kwargs)

    def answer(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Answers:
        """As of `ANIL`; in training the logits before adaptation are left out."""
        initial = initial_weights(self, ways)
        adapting = adapting_weights(self, initial)

        def one_task(task: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> list[tf.Tensor]:
            support, labels, query = task
            adapted = adapt_task(self, support, labels, initial, adapting, steps)
            return [
                apply_head(self, weights.head, self.embed_task(support, query, weights.body)[1])
                for weights in ([adapted] if training else [initial, adapted])
            ]

        tasks = inputs["support_x"], self.support_labels(inputs), inputs["query_x"]
        shape = [tasks[2].shape[1], self.ways if ways is None else ways]
        # A loop, not one long graph: it is traced in a fraction of the time and runs no slower.
        logits = tf.map_fn(
            one_task,
            tasks,
            fn_output_signature=[tf.TensorSpec(shape, tf.float32)] * (1 if training else 2),
        )
        return (None, *logits) if training else tuple(logits)


@keras.saving.register_keras_serializable(package="anil_tf")
class BOIL(MAML):
    """Body Only update in the Inner Loop (Oh et al., ICLR 2021, https://arxiv.org/abs/2008.08882).

    The opposite of `ANIL`: the backbone adapts to each task and the head stays. Arguments as of
    `MAML`.

    Raises:
        ValueError: As of `MAML`; `head_init="shared"` in a classification, whose scores are the
            same for all classes as long as the head stays.
    """

    adapts_head = False

    def __init__(self, backbone: keras.Model, ways: int = 5, **kwargs: Any) -> None:
        super().__init__(backbone, ways, **kwargs)
        classifies = self.row_loss is not mean_squared_error
        if classifies and self.head_init == "shared" and isinstance(self.head, LinearHead):
            raise ValueError(
                "BOIL's head stays, and a shared one tells no classes apart: use "
                "head_init='per_class'. Received: head_init='shared'"
            )
