"""The reference itself, against the definition of gradient descent."""

import numpy as np

from anil_tf.export.verify import reference


def mean_cross_entropy(x, y, kernel, bias):
    exponentials = np.exp(x @ kernel + bias)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return -np.log(probabilities[np.arange(len(y)), y]).mean()


def numerical_gradient(function, at, step=1e-6):
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        nudge = np.zeros_like(at)
        nudge[index] = step
        gradient[index] = (function(at + nudge) - function(at - nudge)) / (2 * step)
    return gradient


def episode():
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(6, 4)),
        np.array([0, 1, 2, 2, 1, 0]),
        rng.normal(size=(4, 3)),
        rng.normal(size=3),
    )


def test_a_step_goes_down_the_numerical_gradient_of_the_loss():
    x, y, kernel, bias = episode()
    adapted = reference.adapt(x, y, kernel, bias, learning_rate=0.3, steps=1)
    by_kernel = numerical_gradient(lambda value: mean_cross_entropy(x, y, value, bias), kernel)
    by_bias = numerical_gradient(lambda value: mean_cross_entropy(x, y, kernel, value), bias)
    np.testing.assert_allclose(adapted.kernel, kernel - 0.3 * by_kernel, atol=1e-8)
    np.testing.assert_allclose(adapted.bias, bias - 0.3 * by_bias, atol=1e-8)


def test_two_steps_are_one_step_twice():
    x, y, kernel, bias = episode()
    once = reference.adapt(x, y, kernel, bias, 0.3, 1)
    twice = reference.adapt(x, y, once.kernel, once.bias, 0.3, 1)
    both = reference.adapt(x, y, kernel, bias, 0.3, 2)
    np.testing.assert_array_equal(both.kernel, twice.kernel)
    assert (both.initial_loss, both.final_loss) == (once.initial_loss, twice.final_loss)


def test_the_losses_are_the_mean_cross_entropy_before_and_after():
    x, y, kernel, bias = episode()
    adapted = reference.adapt(x, y, kernel, bias, 0.3, 4)
    np.testing.assert_allclose(adapted.initial_loss, mean_cross_entropy(x, y, kernel, bias))
    after = mean_cross_entropy(x, y, adapted.kernel, adapted.bias)
    np.testing.assert_allclose(adapted.final_loss, after)


def test_large_logits_do_not_overflow():
    _, probabilities = reference.predict(np.array([[1e4]]), np.array([[1.0, -1.0]]), np.zeros(2))
    np.testing.assert_array_equal(probabilities, [[1.0, 0.0]])
