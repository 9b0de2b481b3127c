"""The inner loop: fit a head to a task's support set by a few steps of gradient descent.

Two forms of the same computation (Raghu et al. 2020, section 4.1; Finn et al. 2017, equation 1):

- `tape_loop` differentiates the support loss with a `tf.GradientTape`, for any head.
- `gram_loop` is the dual form for a linear head. Every update of a linear head lies in the span
  of the support features X, so it is enough to follow the logits S = X w + b and the coefficients
  A of that span, with G = X X' + 1 (the 1 is the bias):

      repeat k times:   R = dL/dS;   A <- A - rate R;   S <- X w_0 + b_0 + G A
      w_k = w_0 + X' A,   b_k = b_0 + 1' A

  It is exact, a step costs O(M^2 N) whatever the feature size, and it takes the gradient of the
  logits only. It is what training uses by default and what the exporter writes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from anil_tf.losses import RowLoss, task_loss

Tensors = Sequence[tf.Tensor]


def rate_at(learning_rate: tf.Tensor | float, step: int | tf.Tensor) -> tf.Tensor | float:
    """The learning rate of a step.

    Args:
        learning_rate: Rate of every step, a scalar; or `[k]`, one rate per step, of which the last
            is also used for all later steps.
        step: Index of the step, from 0.
    """
    if isinstance(learning_rate, int | float) or learning_rate.shape.rank == 0:
        return learning_rate
    return tf.gather(learning_rate, tf.minimum(step, learning_rate.shape[0] - 1))


def tape_loop(
    support_loss: Callable[[Tensors], tf.Tensor],
    parameters: Tensors,
    learning_rate: tf.Tensor | float,
    steps: int | tf.Tensor,
    first_order: bool = False,
) -> list[tf.Tensor]:
    """Gradient descent on `support_loss`, differentiable by an outer tape.

    Args:
        support_loss: Function from the parameters to the loss of each task, `[T]`. The loss of a
            task may depend only on its own slice of the parameters, so that the gradient of the
            sum contains the gradient of every task.
        parameters: Tensors `[T, ...]`, one slice per task.
        learning_rate: Scalar, or `[k]` as in `rate_at`.
        steps: Number of updates. A Python int is unrolled; an int32 scalar tensor becomes a
            `tf.while_loop`, which is traced in a fraction of the time.
        first_order: Whether to stop the outer gradient at the inner gradients (first-order MAML).

    Returns:
        The adapted parameters, shapes as given.
    """

    def update(step: int | tf.Tensor, *values: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = tf.reduce_sum(support_loss(values))
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
        if first_order:
            gradients = [tf.stop_gradient(gradient) for gradient in gradients]
        rate = rate_at(learning_rate, step)
        return [
            value - tf.cast(rate, value.dtype) * gradient
            for value, gradient in zip(values, gradients, strict=True)
        ]

    adapted = [tf.convert_to_tensor(value) for value in parameters]
    if isinstance(steps, tf.Tensor):
        _, *adapted = tf.while_loop(
            lambda step, *values: step < steps,
            lambda step, *values: [step + 1, *update(step, *values)],
            [tf.constant(0), *adapted],
        )
        return adapted
    for step in range(steps):
        adapted = update(step, *adapted)
    return adapted


def gram_matrix(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Inner products of rows, plus one for the bias: `[..., A, D], [..., B, D] -> [..., A, B]`."""
    return tf.matmul(left, right, transpose_b=True) + 1.0


def gram_loop(
    gram: tf.Tensor,
    logits: tf.Tensor,
    residual: Callable[[tf.Tensor], tf.Tensor],
    learning_rate: tf.Tensor | float,
    steps: int | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The Gram recurrence.

    Args:
        gram: `[..., M, M]`, from `gram_matrix(support, support)`.
        logits: `[..., M, N]`, the support's logits under the initial head.
        residual: Function from logits to dL/dlogits, zero in padding rows.
        learning_rate: Scalar, or `[k]` as in `rate_at` where `steps` is a Python int.
        steps: Number of updates. A Python int is unrolled; an int32 scalar tensor becomes a
            `tf.while_loop`.

    Returns:
        The adapted logits and the coefficients A, both `[..., M, N]`.
    """
    initial_logits, coefficients = logits, tf.zeros_like(logits)

    def step(
        rate: tf.Tensor | float, logits: tf.Tensor, coefficients: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        coefficients -= rate * residual(logits)
        # From all of A, not from its change: the next step then corrects what rounding does to A.
        return initial_logits + tf.matmul(gram, coefficients), coefficients

    if isinstance(steps, int):
        for count in range(steps):
            logits, coefficients = step(rate_at(learning_rate, count), logits, coefficients)
        return logits, coefficients

    return tf.while_loop(
        lambda *_: True,
        lambda *state: step(learning_rate, *state),
        (logits, coefficients),
        shape_invariants=(logits.shape, logits.shape),
        maximum_iterations=steps,
    )


class LinearAdaptation(NamedTuple):
    """A linear head fitted to each task, in its dual form: `w = w_0 + X' A`, `b = b_0 + 1' A`."""

    support: tf.Tensor
    kernel: tf.Tensor
    bias: tf.Tensor
    coefficients: tf.Tensor

    def logits(self, query: tf.Tensor) -> tf.Tensor:
        """Logits of query features `[T, Q, D]`, without forming the adapted kernel: `[T, Q, N]`."""
        initial = tf.matmul(query, self.kernel) + self.bias[..., tf.newaxis, :]
        return initial + tf.matmul(gram_matrix(query, self.support), self.coefficients)

    def head(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The adapted kernels `[T, D, N]` and biases `[T, N]`."""
        kernel = self.kernel + tf.matmul(self.support, self.coefficients, transpose_a=True)
        return kernel, self.bias + tf.reduce_sum(self.coefficients, axis=-2)


def adapt_linear(
    support: tf.Tensor,
    labels: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    loss: RowLoss,
    learning_rate: tf.Tensor | float,
    steps: int | tf.Tensor,
    first_order: bool = False,
) -> LinearAdaptation:
    """Fit a linear head to each task's support features, in the Gram form.

    Args:
        support: Features, `[T, M, D]`.
        labels: Integers `[T, M]` (padding outside `0..N-1`), or float targets `[T, M, N]`.
        kernel: Initial kernels, `[T, D, N]` or `[D, N]`.
        bias: Initial biases, `[T, N]` or `[N]`.
        loss: Row loss, a function of `(labels, logits)`.
        learning_rate: Scalar, or `[k]` as in `rate_at`.
        steps: Number of updates.
        first_order: Whether to stop the outer gradient at the inner gradients.

    Returns:
        The adaptation, differentiable with respect to every float argument.
    """
    logits = tf.matmul(support, kernel) + bias[..., tf.newaxis, :]

    def residual(logits: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            task_losses = tf.reduce_sum(task_loss(loss, labels, logits))
        gradient = tape.gradient(task_losses, logits)
        return tf.stop_gradient(gradient) if first_order else gradient

    _, coefficients = gram_loop(
        gram_matrix(support, support), logits, residual, learning_rate, steps
    )
    if first_order:  # the update X' R is a constant of the outer gradient, X included
        support = tf.stop_gradient(support)
    return LinearAdaptation(support, kernel, bias, coefficients)
