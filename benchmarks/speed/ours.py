"""ANIL, MAML and plain training in this library, through Keras's `fit`.

Variants are words joined by dashes: `anil`, `maml` or `floor` (plain supervised training of the
same backbone); the `norm`; then `tape` in place of the Gram form, and `xla`. `several`: 50 steps
per execution; `drawn`: these draw their episodes on the device, as `EpisodeSampler` does.
`bfloat16` and `float16`: the precision of the backbone.
"""

import time
from typing import Any

from benchmarks.speed.worker import DEVICE, EXECUTION, HALF, THREADS, keep_to_two_cores, serve

keep_to_two_cores()

import anil_tf  # noqa: F401, I001  before TensorFlow: it turns oneDNN on
import keras
import numpy as np
import tensorflow as tf
from anil_tf import ANIL, MAML, ClassImages, EpisodeAccuracy, EpisodeSampler, backbones
from benchmarks.speed.workloads import (
    BLOCKS,
    CLASSES,
    INNER_LR,
    INNER_STEPS,
    LEARNING_RATE,
    images_per_class,
    make_images,
)


class Clock(keras.callbacks.Callback):
    """Records when each step ends."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Starts."""
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Records the time."""
        self.ends.append(time.perf_counter())


class Ours:
    """One variant on the tasks of an exchange file."""

    def __init__(self, variant: str, data: dict[str, Any]) -> None:
        way, *words = variant.split("-")
        self.jit = "xla" in words
        self.execution = EXECUTION if {"several", "drawn"} & set(words) else 1
        for precision in set(HALF) & set(words):
            keras.config.set_dtype_policy(f"mixed_{precision}")
        size, channels, ways = (int(data[name]) for name in ("size", "channels", "ways"))
        backbone = backbones.conv4((size, size, channels), filters=int(data["filters"]))
        for block in range(BLOCKS):
            layer = backbone.get_layer(f"block{block + 1}_conv")
            layer.conv.kernel.assign(data[f"conv{block}"])
            layer.norm.gamma.assign(data[f"gamma{block}"])
            layer.norm.beta.assign(data[f"beta{block}"])
        images = {name: tf.constant(data[name]) for name in ("support_x", "query_x")}
        if way == "floor":
            head = keras.layers.Dense(ways)
            self.model = keras.Sequential([backbone, head])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            metric = keras.metrics.SparseCategoricalAccuracy()
            rows = tf.concat([images["support_x"], images["query_x"]], axis=1)
            self.x = tf.reshape(rows, [-1, *rows.shape[2:]])
            labels = tf.concat([data["support_y"], data["query_y"]], axis=1)
            self.y = tf.reshape(labels, [-1])
        else:
            kind = MAML if way == "maml" else ANIL
            self.model = kind(
                backbone,
                ways=ways,
                inner_steps=INNER_STEPS,
                inner_lr=INNER_LR,
                norm=words[0],
                inner_loop="tape" if "tape" in words else "auto",
            )
            head, loss, metric = self.model.head, None, EpisodeAccuracy()
            self.x = {**images, "support_y": tf.constant(data["support_y"])}
            self.y = tf.constant(data["query_y"])
        head.set_weights([data["kernel"], data["bias"]])
        self.model.compile(
            keras.optimizers.Adam(LEARNING_RATE),
            loss,
            metrics=[metric],
            jit_compile=self.jit,
            steps_per_execution=self.execution,
        )
        self.sampler = None
        if "drawn" in words:
            labels = np.repeat(np.arange(CLASSES), images_per_class(data))
            classes = ClassImages.from_arrays(make_images(data), labels)
            sizes = (int(data[name]) for name in ("ways", "shots", "queries"))
            self.sampler = EpisodeSampler(classes, *sizes)
            self.tasks = int(data["tasks"])
        self.clock = Clock()
        self.answer = tf.function(
            lambda inputs: tf.argmax(self.model(inputs), axis=-1), jit_compile=self.jit
        )

    def gradients(self, x: Any, y: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Loss and gradients of one step."""
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(x, y, self.model(x, training=True))
        return loss, tape.gradient(loss, self.model.trainable_weights)

    def check(self) -> tuple[float, float]:
        """Loss and gradient norm of the first step."""
        state = [value.numpy() for value in self.model.non_trainable_variables]
        loss, gradients = tf.function(self.gradients, jit_compile=self.jit)(self.x, self.y)
        for variable, value in zip(self.model.non_trainable_variables, state, strict=True):
            variable.assign(value)
        return float(loss), float(tf.linalg.global_norm(gradients))

    def check_joint(self) -> tuple[float, float]:
        """The same with each task as its own meta-batch, normalised over its own images."""
        step = tf.function(self.gradients)
        tasks = len(self.y)
        results = [
            step({name: value[task : task + 1] for name, value in self.x.items()},
                 self.y[task : task + 1])
            for task in range(tasks)
        ]  # fmt: skip
        losses, gradients = zip(*results, strict=True)
        means = [tf.add_n(each) / tasks for each in zip(*gradients, strict=True)]
        return float(tf.add_n(losses) / tasks), float(tf.linalg.global_norm(means))

    def train(self, steps: int) -> list[float]:
        """Seconds of each step of `fit`, its data set and callbacks included."""
        # The first time includes the start of `fit`.
        batches = (steps + 1) * self.execution
        if self.sampler is None:
            dataset = tf.data.Dataset.from_tensors((self.x, self.y)).repeat(batches)
        else:
            dataset = self.sampler.dataset(batches, self.tasks, draw_on="device")
        self.model.fit(dataset, verbose=0, shuffle=False, callbacks=[self.clock])
        ends = self.clock.ends
        return [
            (after - before) / self.execution for before, after in zip(ends, ends[1:], strict=False)
        ]

    def adapt(self, calls: int) -> list[float]:
        """Seconds of each adaptation to the first task with its predictions."""
        return self._answer({name: value[:1] for name, value in self.x.items()}, calls)

    def learn(self, calls: int) -> list[float]:
        """The same with a single query: the cost of learning the task."""
        task = {name: value[:1] for name, value in self.x.items()}
        return self._answer({**task, "query_x": task["query_x"][:, :1]}, calls)

    def _answer(self, task: dict[str, tf.Tensor], calls: int) -> list[float]:
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            self.answer(task).numpy()
            seconds.append(time.perf_counter() - start)
        return seconds


if __name__ == "__main__":
    if DEVICE == "cpu":
        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    serve(Ours)
