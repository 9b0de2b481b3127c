"""Gram and tape forms agree, to second order, with each other and with the equations."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from anil_tf.inner_loop import adapt_linear, gram_loop, tape_loop
from anil_tf.losses import LOSSES, row_weights, task_loss
from tests.anil_tf import oracle


def draw_task(seed, tasks, rows, ways, size, queries, loss):
    """Random tensors of some tasks; classification labels include padding rows."""
    rng = np.random.default_rng(seed)
    task = {
        "support": rng.normal(size=(tasks, rows, size)),
        "query": rng.normal(size=(tasks, queries, size)),
        "kernel": rng.normal(size=(size, ways)),
        "bias": rng.normal(size=ways),
        "rate": np.array(rng.uniform(0.01, 0.5)),
    }
    if loss == "mse":
        labels = rng.normal(size=(tasks, rows, ways)), rng.normal(size=(tasks, queries, ways))
    else:
        labels = (
            rng.integers(-1, ways + 1, (tasks, rows)).astype(np.int32),
            rng.integers(0, ways, (tasks, queries)).astype(np.int32),
        )
    return {name: tf.constant(value) for name, value in task.items()}, *map(tf.constant, labels)


class Outcome(NamedTuple):
    """Query loss, adapted heads (kernels and biases), and the gradient of each float input."""

    loss: tf.Tensor
    head: tuple[tf.Tensor, tf.Tensor]
    gradients: dict[str, tf.Tensor]


def run(form, task, labels, query_labels, loss, steps, first_order=False):
    """Adapts to the tasks in one form."""
    row_loss = LOSSES[loss]
    with tf.GradientTape() as tape:
        tape.watch(task)
        if form == "gram":
            adapted = adapt_linear(
                task["support"], labels, task["kernel"], task["bias"], row_loss, task["rate"],
                steps, first_order,
            )  # fmt: skip
            logits, head = adapted.logits(task["query"]), adapted.head()
        else:
            tasks = task["support"].shape[0]

            def logits_of(parameters, features):
                kernel, bias = parameters
                return features @ kernel + bias[:, tf.newaxis]

            head = tape_loop(
                lambda head: task_loss(row_loss, labels, logits_of(head, task["support"])),
                [tf.stack([task[name]] * tasks) for name in ("kernel", "bias")],
                task["rate"],
                steps,
                first_order,
            )
            logits = logits_of(head, task["query"])
        total = tf.reduce_sum(task_loss(row_loss, query_labels, logits))
    return Outcome(total, head, tape.gradient(total, task, unconnected_gradients="zero"))


def assert_close(first, second, bound=1e-10):
    scale = max(1.0, float(np.max(np.abs(second), initial=0)))
    np.testing.assert_allclose(first, second, rtol=0, atol=bound * scale)


sizes = {
    "seed": st.integers(0, 10_000),
    "tasks": st.integers(1, 3),
    "rows": st.integers(1, 7),
    "ways": st.integers(2, 5),
    "size": st.integers(1, 9),
    "queries": st.integers(1, 4),
    "steps": st.integers(0, 5),
    "loss": st.sampled_from(["cross_entropy", "mse"]),
    "first_order": st.booleans(),
}


@settings(max_examples=30)
@given(**sizes)
def test_gram_and_tape_agree_in_loss_head_and_every_gradient(
    seed, tasks, rows, ways, size, queries, steps, loss, first_order
):
    drawn = draw_task(seed, tasks, rows, ways, size, queries, loss)
    gram = run("gram", *drawn, loss, steps, first_order)
    tape = run("tape", *drawn, loss, steps, first_order)
    assert_close(gram.loss, tape.loss)
    for first, second in zip(gram.head, tape.head, strict=True):
        assert_close(first, second)
    for name, gradient in tape.gradients.items():
        assert_close(gram.gradients[name], gradient)


@settings(max_examples=20)
@given(**{name: sizes[name] for name in sizes if name not in ("queries", "first_order")})
def test_both_forms_agree_with_the_equations(seed, tasks, rows, ways, size, steps, loss):
    task, labels, query_labels = draw_task(seed, tasks, rows, ways, size, 1, loss)
    for form in ("gram", "tape"):
        kernels, biases = run(form, task, labels, query_labels, loss, steps).head
        for index in range(tasks):
            kernel, bias = oracle.adapt(
                task["support"][index].numpy(),
                labels[index].numpy(),
                task["kernel"].numpy(),
                task["bias"].numpy(),
                float(task["rate"]),
                steps,
            )
            assert_close(kernels[index], kernel)
            assert_close(biases[index], bias)


@pytest.mark.parametrize("form", ["gram", "tape"])
def test_second_order_gradients_agree_with_finite_differences(form):
    task, labels, query_labels = draw_task(3, 2, 5, 3, 4, 2, "cross_entropy")
    gradients = run(form, task, labels, query_labels, "cross_entropy", 3).gradients
    rng = np.random.default_rng(0)
    for name, value in task.items():
        direction = rng.normal(size=value.shape)
        losses = [
            run(form, {**task, name: value + sign * 1e-6 * direction}, labels, query_labels,
                "cross_entropy", 3).loss
            for sign in (1, -1)
        ]  # fmt: skip
        numeric = float(losses[0] - losses[1]) / 2e-6
        assert float(tf.reduce_sum(gradients[name] * direction)) == pytest.approx(numeric, rel=1e-5)


def test_first_order_changes_gradients_but_not_the_forward_pass():
    drawn = draw_task(1, 2, 5, 3, 4, 2, "cross_entropy")
    second, first = (run("gram", *drawn, "cross_entropy", 3, flag) for flag in (False, True))
    assert_close(first.loss, second.loss)
    assert np.abs(first.gradients["support"] - second.gradients["support"]).max() > 1e-3


def test_padding_rows_alone_leave_the_head_as_it_was():
    task, labels, query_labels = draw_task(1, 2, 5, 3, 4, 2, "cross_entropy")
    padding = tf.fill(labels.shape, -1)
    kernels, _ = run("gram", task, padding, query_labels, "cross_entropy", 4).head
    np.testing.assert_array_equal(kernels[0], task["kernel"])


def test_a_tensor_of_steps_runs_the_same_loop():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 3))
    gram, logits = tf.constant(features @ features.T), tf.constant(rng.normal(size=(4, 2)))
    for steps in (0, 1, 6):
        unrolled = gram_loop(gram, logits, tf.tanh, 0.1, steps)
        looped = gram_loop(gram, logits, tf.tanh, 0.1, tf.constant(steps))
        for first, second in zip(unrolled, looped, strict=True):
            assert_close(first, second, 1e-14)


@pytest.mark.parametrize("rate", [0.3, [0.4, 0.1]])
def test_a_tensor_of_steps_runs_the_same_tape_loop(rate):
    task, labels, query_labels = draw_task(2, 2, 5, 3, 4, 2, "cross_entropy")
    task = {**task, "rate": tf.constant(rate, tf.float64)}
    for steps in (0, 1, 4):
        unrolled = run("tape", task, labels, query_labels, "cross_entropy", steps)
        looped = run("tape", task, labels, query_labels, "cross_entropy", tf.constant(steps))
        for first, second in zip(unrolled.head, looped.head, strict=True):
            assert_close(first, second, 1e-14)


@pytest.mark.parametrize("form", ["gram", "tape"])
def test_a_rate_a_step_is_a_step_at_each_rate_and_the_last_for_the_rest(form):
    task, labels, query_labels = draw_task(2, 1, 5, 3, 4, 2, "cross_entropy")
    rates = [0.4, 0.1, 0.1]
    with_rates = {**task, "rate": tf.constant(rates[:2], tf.float64)}
    at_once = run(form, with_rates, labels, query_labels, "cross_entropy", 3)
    kernel, bias = task["kernel"], task["bias"]
    for rate in rates:
        one_step = {**task, "kernel": kernel, "bias": bias, "rate": tf.constant(rate, tf.float64)}
        kernels, biases = run(form, one_step, labels, query_labels, "cross_entropy", 1).head
        kernel, bias = kernels[0], biases[0]
    assert_close(at_once.head[0][0], kernel, 1e-12)
    assert_close(at_once.head[1][0], bias, 1e-12)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("counts", [(5, 5, 5), (4, 5, 5), (5, 1, 1), (1, 40, 7)])
def test_a_class_with_few_images_is_learned_as_well_as_one_with_many(counts, steps):
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(16, 3)))[0].T

    def near(labels):
        features = directions[labels] + rng.normal(0, 0.1, (len(labels), 16))
        return tf.constant(features / np.linalg.norm(features, axis=1, keepdims=True))[tf.newaxis]

    labels, queries = np.repeat(np.arange(3), counts), np.repeat(np.arange(3), 50)
    kernel, bias = np.zeros((16, 3)), np.zeros(3)
    adapted = adapt_linear(
        near(labels), tf.constant(labels)[tf.newaxis], kernel, bias, LOSSES["cross_entropy"],
        200.0, steps,
    )  # fmt: skip
    predicted = adapted.logits(near(queries))[0].numpy().argmax(axis=1)
    assert [np.mean(predicted[queries == label] == label) for label in range(3)] == [1, 1, 1]


def test_weights_of_rows_sum_to_one_and_are_equal_where_classes_are():
    labels = tf.constant([[0, 1, 1, -1, 2, 5, 2, 2], [-1] * 8, [0, 1, 2, 3, 0, 1, 2, 3]])
    weights = row_weights(labels, 4).numpy()
    third = 1 / 3
    assert weights[0] == pytest.approx(
        [third, third / 2, third / 2, 0, third / 3, 0, third / 3, third / 3]
    )
    assert not weights[1].any()
    np.testing.assert_array_equal(weights[2], np.float32(1 / 8))
