"""Training steps that draw their episodes, several of them in one computation.

Keras runs one compiled step at a time: between two of them the host draws the next batch, copies it
to the device and starts the kernels, which on a GPU takes longer than a small step. Here the data
set has only the indices of the episodes. A step draws them from images in the device's memory, and
`steps_per_execution` steps are one loop in one computation, which XLA compiles as a whole.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import keras
import tensorflow as tf

from anil_tf.distribution import DistributedFit
from anil_tf.episode_data import Plan

STEPS = 50  # of "auto" steps per execution: what happens between executions hardly counts then
_INDEX = tf.TensorSpec([], tf.int64)


class DeviceFit(DistributedFit):
    """A Keras model whose `fit` can draw the episodes of a sampler within its steps."""

    _plan: Plan | None = None  # of the `fit` that runs, if its steps draw their episodes
    _device_steps: "_DeviceSteps | None" = None
    _asked_steps: int | Literal["auto"] = 1

    @property
    def steps_per_execution(self) -> int:
        """Number of steps in one computation, after which callbacks for batches are called.

        Given to `compile` as `"auto"`, it is 50 where XLA compiles the model for a single GPU, and
        1 elsewhere.
        """
        if self._asked_steps != "auto":
            return self._asked_steps
        return STEPS if self._is_alone() and self._is_compiled_for_gpu() else 1

    @steps_per_execution.setter
    def steps_per_execution(self, steps: int | Literal["auto"]) -> None:
        self._asked_steps = steps
        self._device_steps = None  # this is `compile`

    def plan_on_device(self, plan: Plan) -> Plan | None:
        """The plan for steps that draw their episodes; None where the host draws them.

        Raises:
            ValueError: The plan asks for the device, where it cannot be drawn.
        """
        asked = plan.draw_on == "device"
        if not asked and not (plan.draw_on == "auto" and self._is_compiled_for_gpu()):
            return None
        moved = plan.on_device() if self._is_alone() else None
        if asked and moved is None:
            raise ValueError(
                "draw_on='device' needs a sampler of images that fit the device's memory, and a "
                "model without a distribution strategy. Use draw_on='host'"
            )
        return moved

    def copied_ahead(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Batches of the host that are on the GPU before their step begins, if there is a GPU.

        Args:
            batches: A data set without an end: on the GPU, Keras would not see how long it is, and
                run a phantom step in each epoch.
        """
        gpus = tf.config.list_logical_devices("GPU") if self._is_alone() else []
        if not gpus:
            return batches
        return batches.apply(tf.data.experimental.prefetch_to_device(gpus[0].name))

    @contextlib.contextmanager
    def drawing(self, plan: Plan | None) -> Iterator[None]:
        """Context manager in which `fit` reads indices of a plan's episodes, if there is a plan."""
        if plan is None:
            yield
            return
        of_data, self.train_function = self.train_function, None
        self._plan = plan
        try:
            yield
        finally:
            self._plan, self.train_function = None, of_data

    def make_train_function(self, force: bool = False) -> Any:
        """Makes what Keras calls for one execution: its own, or steps that draw their episodes."""
        if self.built and not self.optimizer.built and self._is_alone():
            # A step that makes variables is traced a second time, without making them.
            self.optimizer.build(self.trainable_variables)
        if force:
            self._device_steps = None
        if self._plan is None:
            return super().make_train_function(force)
        if self._device_steps is None or not self._device_steps.plan.draws_like(self._plan):
            self._device_steps = _DeviceSteps(self, self._plan)
        self.train_function = self._device_steps
        return self.train_function

    def _is_alone(self) -> bool:
        """Whether the model is trained without a distribution strategy."""
        default = type(tf.distribute.get_strategy())
        return not tf.distribute.has_strategy() and type(self.distribute_strategy) is default

    def _is_compiled_for_gpu(self) -> bool:
        return bool(self.jit_compile and tf.config.list_physical_devices("GPU"))


class _DeviceSteps:
    """What Keras calls a train function, on the iterator of a plan's indices.

    Args:
        model: Compiled model.
        plan: Plan of the episodes.
    """

    def __init__(self, model: keras.Model, plan: Plan) -> None:
        self.plan = plan
        self._model = model
        self._function: Callable[[Any], Any] | None = None
        self.several_steps: Any = None  # the computation, once there is one

    def __call__(self, iterator: Any) -> Any:
        """Runs the next steps of the epoch; returns the results of the last one."""
        if self._model.run_eagerly:
            return self._run_eagerly(*self._take(iterator))
        if self._function is None:
            self._function = self._make()
        return self._function(iterator)

    def _one_step(self, first: tf.Tensor) -> dict[str, Any]:
        results = self._model.train_step(self.plan.draw(first))
        return tf.nest.map_structure(tf.convert_to_tensor, results)

    def _make(self) -> Callable[[Any], Any]:
        # Traced by itself: the results of a step are known before the loop is.
        step = tf.function(self._one_step, autograph=False).get_concrete_function(_INDEX)

        @tf.function(
            jit_compile=self._model.jit_compile, autograph=False, input_signature=[_INDEX, _INDEX]
        )
        def several_steps(first: tf.Tensor, count: tf.Tensor) -> Any:
            nothing = tf.nest.map_structure(
                lambda result: tf.zeros(result.shape, result.dtype), step.structured_outputs
            )
            return tf.while_loop(
                lambda done, _: done < count,
                lambda done, _: (done + 1, step(first + done * self.plan.tasks)),
                (tf.zeros([], tf.int64), nothing),
                parallel_iterations=1,
            )[1]

        @tf.function(autograph=False, reduce_retracing=True)
        def execution(iterator: Any) -> Any:
            return several_steps(*self._take(iterator))

        self.several_steps = several_steps
        return execution

    def _take(self, iterator: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """The index of the next step's first episode, and the number of steps to run."""

        def take_another(count: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            there_is = iterator.get_next_as_optional().has_value()
            return count + tf.cast(there_is, tf.int64), there_is

        first = iterator.get_next()
        count, _ = tf.while_loop(
            lambda count, more: more & (count < self._model.steps_per_execution),
            take_another,
            (tf.ones([], tf.int64), tf.constant(True)),
        )
        return first, count

    def _run_eagerly(self, first: tf.Tensor, count: tf.Tensor) -> Any:
        results = None
        for done in range(int(count)):
            results = self._one_step(first + done * self.plan.tasks)
        return results
