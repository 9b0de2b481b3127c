"""ANIL in JAX, the whole step under `jit` and the tasks under `vmap`.

Variants are words joined by dashes: `batch` (convolutions of all tasks at once), `joint` or `task`
(one task under `vmap`; normalised over all its images, or over support and queries separately), or
`floor`, plain supervised training. `drawn`: 50 steps are one `lax.scan`, which draws their episodes
from images on the device. `bfloat16`: the convolutions; normalisation and heads are float32.
"""

import time
from typing import Any

from benchmarks.speed.worker import EXECUTION, keep_to_two_cores, serve

keep_to_two_cores()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.workloads import (
    BLOCKS,
    CLASSES,
    EPSILON,
    INNER_LR,
    INNER_STEPS,
    LEARNING_RATE,
    MOMENTUM,
    images_per_class,
    make_images,
)

Tree = Any


def features(
    body: Tree, images: jax.Array, state: Tree | None = None, dtype: Any = jnp.float32
) -> tuple[jax.Array, Tree]:
    """Features `[B, D]` of images `[B, H, W, C]`, and the statistics of the pass.

    Args:
        body: Kernel, gamma and beta of each block.
        images: uint8.
        state: Mean and variance of each block to normalise by; the images' own without it.
        dtype: What convolutions compute in.
    """
    x, statistics = images.astype(jnp.float32) / 255, []
    for block, (kernel, gamma, beta) in enumerate(body):
        x = jax.lax.conv_general_dilated(
            x.astype(dtype),
            kernel.astype(dtype),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).astype(jnp.float32)
        if state is None:
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        else:
            mean, variance = state[block]
        statistics.append((mean, variance))
        x = (x - mean) * (jax.lax.rsqrt(variance + EPSILON) * gamma) + beta
        # Not the maximum of a reshaped map, which is faster: under `jit` on a CPU its gradient
        # through the normalisation is wrong (9.64 for 9.15, in JAX 0.10.2).
        window = (1, 2, 2, 1)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        x = jax.nn.relu(x)
    return x.reshape(len(x), -1), statistics


def cross_entropy(head: Tree, rows: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the rows."""
    log_probabilities = jax.nn.log_softmax(rows @ head[0] + head[1])
    return -jnp.take_along_axis(log_probabilities, labels[:, None], 1).mean()


def adapted(head: Tree, support: jax.Array, labels: jax.Array) -> Tree:
    """The head after the inner loop."""
    for _ in range(INNER_STEPS):
        gradients = jax.grad(cross_entropy)(head, support, labels)
        head = jax.tree.map(lambda value, step: value - INNER_LR * step, head, gradients)
    return head


class JaxANIL:
    """One variant on the tasks of an exchange file."""

    def __init__(self, variant: str, data: dict[str, Any]) -> None:
        self.way, *words = variant.split("-")
        self.dtype = jnp.bfloat16 if "bfloat16" in words else jnp.float32
        self.drawn = "drawn" in words
        body = [
            tuple(jnp.asarray(data[f"{name}{block}"]) for name in ("conv", "gamma", "beta"))
            for block in range(BLOCKS)
        ]
        filters = int(data["filters"])
        self.parameters = body, (jnp.asarray(data["kernel"]), jnp.asarray(data["bias"]))
        self.state = [(jnp.zeros(filters), jnp.ones(filters))] * BLOCKS
        zeros = jax.tree.map(jnp.zeros_like, self.parameters)
        self.moments = zeros, zeros, jnp.zeros(())
        names = ("support_x", "support_y", "query_x", "query_y")
        self.episode = {name: jnp.asarray(data[name]) for name in names}
        self.step = jax.jit(self._step)
        if self.drawn:
            self.ways, self.shots, self.queries, self.tasks = (
                int(data[name]) for name in ("ways", "shots", "queries", "tasks")
            )
            images = make_images(data)
            self.images = jnp.asarray(images.reshape(CLASSES, -1, *images.shape[1:]))
            self.rows = images_per_class(data)
            self.several = jax.jit(self._several)
            self.done = 0
        self.answer = jax.jit(self._answer)

    def features(self, body: Tree, images: jax.Array, state: Tree | None = None) -> Any:
        """Features of images and the statistics of the pass, in this variant's precision."""
        return features(body, images, state, self.dtype)

    def draw(self, index: jax.Array) -> Tree:
        """The episodes of a step, drawn from the images on the device."""
        class_key, row_key = jax.random.split(jax.random.fold_in(jax.random.key(0), index))
        shape = (self.tasks, self.ways)
        _, classes = jax.lax.top_k(jax.random.uniform(class_key, (self.tasks, CLASSES)), self.ways)
        order = jax.random.uniform(row_key, (*shape, self.rows))
        _, rows = jax.lax.top_k(order, self.shots + self.queries)
        images = self.images[classes[..., None], rows]

        def flat(part: jax.Array) -> jax.Array:
            return part.reshape(self.tasks, -1, *part.shape[3:])

        return {
            "support_x": flat(images[:, :, : self.shots]),
            "query_x": flat(images[:, :, self.shots :]),
            "support_y": self.episode["support_y"],
            "query_y": self.episode["query_y"],
        }

    def _several(self, carry: Tree, first: int) -> tuple[Tree, jax.Array]:
        def step(carry: Tree, index: jax.Array) -> tuple[Tree, jax.Array]:
            *carry, loss = self._step(*carry, self.draw(index))
            return tuple(carry), loss

        carry, losses = jax.lax.scan(step, carry, first + jnp.arange(EXECUTION))
        return carry, losses[-1]

    def loss(self, parameters: Tree, episode: Tree) -> tuple[jax.Array, Tree]:
        """Loss of a step, and the statistics of its batch normalisation."""
        body, head = parameters
        if self.way == "floor":
            images = jnp.concatenate([episode["support_x"], episode["query_x"]], 1)
            labels = jnp.concatenate([episode["support_y"], episode["query_y"]], 1).reshape(-1)
            rows, statistics = self.features(body, images.reshape(-1, *images.shape[2:]))
            return cross_entropy(head, rows, labels), statistics

        def one_task(support: jax.Array, query: jax.Array, task: Tree) -> jax.Array:
            moved = adapted(head, support, task["support_y"])
            return cross_entropy(moved, query, task["query_y"])

        if self.way == "batch":
            images = jnp.concatenate([episode["support_x"], episode["query_x"]], 1)
            rows, statistics = self.features(body, images.reshape(-1, *images.shape[2:]))
            rows = rows.reshape(*images.shape[:2], -1)
            split = episode["support_x"].shape[1]
            losses = jax.vmap(one_task)(rows[:, :split], rows[:, split:], episode)
            return losses.mean(), statistics

        def whole_task(task: Tree) -> tuple[jax.Array, Tree]:
            support, query, statistics = self.embed(body, task)
            return one_task(support, query, task), statistics

        losses, statistics = jax.vmap(whole_task)(episode)
        return losses.mean(), jax.tree.map(lambda value: value.mean(0), statistics)

    def embed(self, body: Tree, task: Tree, state: Tree | None = None) -> tuple[Any, Any, Any]:
        """Features of a task's support and queries, and the statistics of the pass."""
        if self.way == "task":
            support, _ = self.features(body, task["support_x"])
            return support, *self.features(body, task["query_x"])
        images = jnp.concatenate([task["support_x"], task["query_x"]])
        rows, statistics = self.features(body, images, state)
        split = len(task["support_x"])
        return rows[:split], rows[split:], statistics

    def _step(self, parameters: Tree, moments: Tree, state: Tree, episode: Tree) -> Any:
        (loss, statistics), gradients = jax.value_and_grad(self.loss, has_aux=True)(
            parameters, episode
        )
        first, second, count = moments
        count += 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
        rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        parameters = jax.tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7), parameters, first, second
        )
        state = jax.tree.map(
            lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new, state, statistics
        )
        return parameters, (first, second, count), state, loss

    def _answer(self, parameters: Tree, state: Tree, task: Tree) -> jax.Array:
        body, head = parameters
        support, query, _ = self.embed(body, task, state if self.way == "batch" else None)
        kernel, bias = adapted(head, support, task["support_y"])
        return (query @ kernel + bias).argmax(1)

    def check(self) -> tuple[float, float]:
        """Loss and gradient norm of the first step."""
        (loss, _), gradients = jax.jit(jax.value_and_grad(self.loss, has_aux=True))(
            self.parameters, self.episode
        )
        squares = sum(
            float(np.square(np.asarray(value, np.float64)).sum())
            for value in jax.tree.leaves(gradients)
        )
        return float(loss), squares**0.5

    def train(self, steps: int) -> list[float]:
        """Seconds of each training step, or of the mean step of each execution."""
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            carry = self.parameters, self.moments, self.state
            if self.drawn:
                carry, loss = self.several(carry, self.done)
                self.done += EXECUTION
            else:
                *carry, loss = self.step(*carry, self.episode)
            self.parameters, self.moments, self.state = carry
            float(loss)
            taken = time.perf_counter() - start
            seconds.append(taken / EXECUTION if self.drawn else taken)
        return seconds

    def adapt(self, calls: int) -> list[float]:
        """Seconds of each adaptation to the first task with its predictions."""
        task = {name: value[0] for name, value in self.episode.items()}
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            np.asarray(self.answer(self.parameters, self.state, task))
            seconds.append(time.perf_counter() - start)
        return seconds


if __name__ == "__main__":
    serve(JaxANIL)
