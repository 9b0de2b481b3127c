"""`MAML` and `BOIL`: models whose inner loop adapts the backbone.

`ANIL` adapts the head alone, which its Gram form makes fast. Here the inner loop may adapt any of
the model's weights (`adapt_task`), and each task has a backbone of its own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from anil_tf.adaptive import AdaptiveModel
from anil_tf.embedding import Norm
from anil_tf.episodic import EpisodicModel
from anil_tf.heads import LinearHead
from anil_tf.inner_loop import tape_loop
from anil_tf.losses import task_loss
from anil_tf.outer_loop import Predictions


class Weights(NamedTuple):
    """The weights of one task.

    `body` is in the order of the backbone's trainable variables, `head` as `head.initial` gives it.
    """

    body: list[tf.Tensor]
    head: list[tf.Tensor]


def initial_weights(model: EpisodicModel, ways: int | None = None) -> Weights:
    """The weights from which every task starts."""
    body = [tf.convert_to_tensor(variable) for variable in model.backbone.trainable_variables]
    return Weights(body, [] if model.head is None else model.head.initial(ways))


def adapting_weights(model: EpisodicModel, weights: Weights) -> list[bool]:
    """Whether the model adapts each weight: those of the body, then those of the head."""
    body, head = (len(part) for part in weights)
    return [model.adapts_body] * body + [model.adapts_head] * head


def adapt_task(
    model: EpisodicModel,
    support: tf.Tensor,
    labels: tf.Tensor,
    initial: Weights,
    adapting: Sequence[bool],
    steps: int | tf.Tensor | None = None,
) -> Weights:
    """Runs the inner loop of one task on some of the weights.

    Args:
        model: Model with the backbone, head, loss and learning rate to use.
        support: Images `[M, ...]`.
        labels: Integers `[M]`, or float targets `[M, ways]` for a regression.
        initial: Weights before the first step.
        adapting: Whether each weight adapts: those of the body, then those of the head.
        steps: Number of steps, as `tape_loop` takes it; by default the model's own.

    Returns:
        The adapted weights, differentiable with respect to `initial` and the learning rate.
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
        features, _ = model.embedding.run(support, weights.body)
        return task_loss(model.row_loss, labels, apply_head(model, weights.head, features))

    adapted = tape_loop(
        support_loss,
        [weight for moves, weight in zip(adapting, everything, strict=True) if moves],
        model.inner_lr,
        model.inner_steps if steps is None else steps,
        model.first_order,
    )
    return merge(adapted)


def apply_head(model: EpisodicModel, head: Sequence[tf.Tensor], features: tf.Tensor) -> tf.Tensor:
    """Logits `[M, ways]` of one task's features `[M, D]` under a head's weights."""
    return model.head.apply([weight[tf.newaxis] for weight in head], features[tf.newaxis])[0]


class _BackboneLoop(AdaptiveModel):
    """What `MAML` and `BOIL` share: an inner loop over the backbone's weights."""

    adapts_body = True

    def __init__(
        self, backbone: keras.Model, *, ways: int = 5, norm: Norm = "support", **kwargs: Any
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
        super().__init__(backbone, ways=ways, norm=norm, **kwargs)

    def adapt_and_predict(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Predictions:
        """The queries' logits before and after adapting to each task.

        Arguments and result are those of `EpisodicModel.adapt_and_predict`.
        """
        initial = initial_weights(self, ways)
        adapting = adapting_weights(self, initial)

        def one_task(task: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> list[tf.Tensor]:
            support, labels, query = task
            adapted = adapt_task(self, support, labels, initial, adapting, steps)
            return [
                apply_head(
                    self,
                    weights.head,
                    self.embedding.embed_task(support, query, weights.body)[1],
                )
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
        return Predictions(None, *logits) if training else Predictions(*logits)


@keras.saving.register_keras_serializable(package="anil_tf")
class MAML(_BackboneLoop):
    """Model-Agnostic Meta-Learning (Finn et al., ICML 2017, https://arxiv.org/abs/1703.03400).

    Backbone and head adapt to each task; `first_order=True` is its first-order approximation. Data,
    training and arguments are those of `ANIL`, except for `norm`.

    Args:
        backbone: A Keras model from inputs `[B, ...]` to features `[B, D]`.
        ways: Number of classes of a task, or of outputs of a regression.
        norm: `"support"` (inductive) or `"task"` (transductive, as in the paper). `"batch"` is
            rejected, since an adapted backbone has no moving averages.
        **kwargs: Other arguments of `ANIL`. With a shared head, which starts at zero, the first
            step changes the head alone: MAML's own head is `head_init="per_class"`.

    Raises:
        ValueError: An argument is out of its range; `norm="batch"`; `inner_loop="gram"`.
    """

    adapts_head = True


@keras.saving.register_keras_serializable(package="anil_tf")
class BOIL(_BackboneLoop):
    """Body Only update in the Inner Loop (Oh et al., ICLR 2021, https://arxiv.org/abs/2008.08882).

    The opposite of `ANIL`: the backbone adapts to each task and the head does not.

    Args:
        backbone: A Keras model from inputs `[B, ...]` to features `[B, D]`.
        ways: Number of classes of a task, or of outputs of a regression.
        **kwargs: Other arguments of `MAML`.

    Raises:
        ValueError: `MAML` would reject an argument; or `head_init="shared"` in a classification:
            a shared head that does not adapt gives all classes the same score.
    """

    def __init__(self, backbone: keras.Model, *, ways: int = 5, **kwargs: Any) -> None:
        super().__init__(backbone, ways=ways, **kwargs)
        shared = self.head_init == "shared" and isinstance(self.head, LinearHead)
        if shared and not self.is_regression:
            raise ValueError(
                "BOIL does not adapt its head, and a shared head gives all classes one score: use "
                "head_init='per_class'. Received: head_init='shared'"
            )
