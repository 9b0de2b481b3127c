"""The outer loop: what `fit` and `evaluate` do with a model's predictions for its tasks."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from anil_tf import losses
from anil_tf.device_steps import DeviceFit
from anil_tf.episode_data import (
    NewEpisodes,
    Plan,
    check_kind,
    check_labels,
    check_sampler,
    labels_in_one_line,
    plan_of,
)
from anil_tf.support import keras_private


class Predictions(NamedTuple):
    """Logits `[T, Q, ways]` of the queries.

    Attributes:
        before: Logits before adaptation; None in training where they cost an extra pass.
        after: Logits after adaptation.
    """

    before: Any
    after: tf.Tensor


class OuterLoop(DeviceFit):
    """Keras's protocol for a model that predicts the queries of tasks: steps, loss and metrics.

    The subclass defines `adapt_and_predict`, the loss of the queries, and a metric of the logits
    before adaptation.
    """

    adapt_and_predict: Callable[..., Predictions]
    ways: int
    is_regression: bool
    _query_loss: losses.QueryLoss
    _before: keras.metrics.Metric

    # What `fit` and `evaluate` take.

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains on episodes; arguments and result are those of `keras.Model.fit`.

        **A sampler's data set gives new episodes in each epoch**: `fit(sampler.dataset(1000, 4),
        epochs=10)` trains on 40,000 different tasks, and the epoch's number alone decides which.
        Validation data is the same in each epoch. With `steps_per_epoch`, or with a data set of
        your own, Keras reads the data set as it is.

        Raises:
            ValueError: The data are no episodes, labels are outside `0..ways-1`, the loss of
                `compile` does not fit the model, or `class_weight` is given.
        """
        given = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs).arguments
        del given["self"]
        x, validation = given.get("x"), given.get("validation_data")
        check_kind(x, "fit")
        losses.check_compiled(getattr(self, "loss", None), self.is_regression)
        if given.get("class_weight") is not None:
            raise ValueError(
                "class_weight has no meaning here, since a label is another class in each task: "
                "use sample_weight, [T] for tasks or [T, Q] for queries"
            )
        if isinstance(x, tf.data.Dataset):
            given.setdefault("shuffle", False)  # Keras warns that it cannot shuffle a data set
        plan, counted = plan_of(x), given.get("steps_per_epoch") is not None
        drawing = plan and self.plan_on_device(plan)
        runs_on = bool(plan and not drawing and not counted and self._may_run_on(plan))
        if plan and (drawing or not counted):
            moved = None
            if given.get("epochs", 1) > 1 and not counted:
                episodes, callbacks = NewEpisodes(plan, runs_on), given.get("callbacks")
                moved = episodes.moved
                if isinstance(callbacks, keras.callbacks.CallbackList):
                    callbacks.append(episodes)
                else:
                    given["callbacks"] = [episodes, *tf.nest.flatten(callbacks or [])]
            if runs_on:
                x, given["steps_per_epoch"] = plan.endless().dataset(moved), plan.batches
            else:
                x = drawing.indices(moved) if drawing else plan.dataset(moved)
        given["x"] = x
        if isinstance(validation, tf.data.Dataset):
            validation, given["validation_steps"] = self._run_on(
                validation, given.get("validation_steps")
            )
            given["validation_data"] = validation
        if not self.is_regression:
            given["x"] = check_labels(x, given.get("y"), self.ways)
            if isinstance(validation, tf.data.Dataset):
                given["validation_data"] = check_labels(validation, None, self.ways)
            elif validation is not None:
                check_labels(validation[0], validation[1], self.ways)
            if drawing:
                check_sampler(drawing.sampler, self.ways)
        if runs_on:
            given["x"] = self.copied_ahead(given["x"])
        with labels_in_one_line(), self.drawing(drawing):
            return super().fit(**given)

    def evaluate(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """Loss and metrics; arguments and result are those of `keras.Model.evaluate`.

        Raises:
            ValueError: As in `fit`.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # not from `fit`, which has checked it
            check_kind(x, "evaluate")
            losses.check_compiled(getattr(self, "loss", None), self.is_regression)
            x, kwargs["steps"] = self._run_on(x, kwargs.get("steps"))
            if not self.is_regression:
                x = check_labels(x, y, self.ways)
        with labels_in_one_line():
            return super().evaluate(x, y, **kwargs)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """Logits of the queries; arguments and result are those of `keras.Model.predict`.

        Raises:
            ValueError: The data are no episodes.
        """
        check_kind(x, "predict")
        x, kwargs["steps"] = self._run_on(x, kwargs.get("steps"))
        return super().predict(x, **kwargs)

    def _may_run_on(self, plan: Plan) -> bool:
        # The last execution of a pass takes as many steps as the others.
        whole = plan.batches > 0 and plan.batches % self.steps_per_execution == 0
        return whole and self._is_alone()

    def _run_on(self, x: Any, steps: int | None) -> tuple[Any, int | None]:
        """A sampler's data set without an end, and the number of its batches; other data as it is.

        At the end of a data set Keras makes another iterator, in vain, and to prepare one takes
        longer than to draw some episodes.
        """
        plan = plan_of(x)
        if plan is None or steps is not None or not self._may_run_on(plan):
            return x, steps
        return plan.endless().dataset(), plan.batches

    # What Keras calls.

    def _build_for(self, inputs: dict[str, tf.Tensor]) -> None:
        # `fit` and `evaluate` call the model's parts, which build nothing by themselves.
        if not self.built:
            self.build({name: tuple(value.shape) for name, value in inputs.items()})

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """The loss given to `compile`, else that of the inner loop, averaged over the queries."""
        if self.loss is not None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = self._query_loss(y, y_pred, sample_weight)
        extra = [keras_private.aggregate_additional_loss(self, each) for each in self.losses]
        return tf.add_n([loss, *extra])

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One outer step: an outer tape around the inner loop of every task of the batch."""
        x, y, sample_weight = _unpack(data)
        self._build_for(x)
        gradients, loss, before, y_pred = self.outer_gradients(x, y, sample_weight)
        with forgetting_gradients():
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self._update_metrics(x, y, before, y_pred, loss, sample_weight)

    def predict_in_training(
        self, inputs: dict[str, tf.Tensor]
    ) -> tuple[Predictions, tf.Tensor | None]:
        """The predictions to learn from, and a loss to add to that of the queries, or None."""
        return self.adapt_and_predict(inputs, training=True), None

    def outer_gradients(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[Any, ...]:
        """Gradients by the trainable weights, the loss of the queries, and their predictions.

        The gradients are those of the (scaled) sum of all losses.
        """
        with tf.GradientTape() as tape:
            (before, y_pred), other_loss = self.predict_in_training(x)
            loss = keras_private.compute_loss(self, x, y, y_pred, sample_weight, training=True)
            total = loss
            if other_loss is not None:
                total += keras_private.aggregate_additional_loss(self, other_loss)
            scaled_loss = self.optimizer.scale_loss(total)
        return tape.gradient(scaled_loss, self.trainable_weights), loss, before, y_pred

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Loss and metrics of a batch of tasks, before and after adaptation."""
        x, y, sample_weight = _unpack(data)
        self._build_for(x)
        before, y_pred = self.adapt_and_predict(x, training=False)
        loss = keras_private.compute_loss(self, x, y, y_pred, sample_weight, training=False)
        return self._update_metrics(x, y, before, y_pred, loss, sample_weight)

    def _update_metrics(
        self, x: Any, y: Any, before: Any, after: tf.Tensor, loss: tf.Tensor, weight: Any
    ) -> dict[str, tf.Tensor]:
        # Keras divides the loss by the replicas so that gradients add up; the report is the mean.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        tracker = keras_private.loss_tracker(self)
        tracker.update_state(loss * replicas, sample_weight=tf.shape(after)[0])
        if before is not None:
            self._before.update_state(y, before, weight)
        metrics = self.compute_metrics(x, y, after, sample_weight=weight)
        if before is None:
            del metrics[self._before.name]
        return metrics


def _unpack(data: Any) -> tuple[Any, Any, Any]:
    """Inputs, targets, and weights `[T, Q]`: a weight per task `[T]` is that of all its queries."""
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if weight is not None and weight.shape.rank == 1:
        weight = tf.broadcast_to(weight[:, tf.newaxis], tf.shape(y)[:2])
    return x, y, weight


@contextlib.contextmanager
def forgetting_gradients() -> Iterator[None]:
    """Context manager that discards the gradient functions that TensorFlow registers inside it.

    Use it around the optimizer's update only. Every Keras optimizer calls `all_reduce`, whose
    gradient function TensorFlow registers for each trace and keeps forever, and the whole traced
    step with it: 5 to 12 MB for each model trained. Nobody differentiates through the outer update.
    """
    functions = keras_private.gradient_functions()
    known = set(functions)
    try:
        yield
    finally:
        for name in set(functions) - known:
            functions.pop(name, None)  # replicas are traced side by side
