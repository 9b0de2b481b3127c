"""How much faster ANIL is than MAML, because it adapts the head alone."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from anil_tf.episodes import EpisodeSampler
from anil_tf.episodic import EpisodicModel
from anil_tf.maml import adapt_task, adapting_weights, initial_weights
from anil_tf.support.progress import track
from anil_tf.training.recipe import Recipe
from anil_tf.training.recipe.building import build_model

REPEATS = 11


def measure_speed(recipe: Recipe, sampler: EpisodeSampler) -> dict[str, Any]:
    """Median milliseconds of ANIL and of MAML with one recipe, measured in turns.

    Args:
        recipe: Recipe of both models.
        sampler: Draws the tasks.

    Returns:
        `train_step`, a whole outer step on a meta-batch of the training's size, and `adaptation`,
        from a task's support images to its adapted weights. Each has `anil` and `maml` in
        milliseconds, and `ratio`, how many times longer MAML takes.
    """
    norm = "support" if recipe.model.norm == "batch" else recipe.model.norm
    table = recipe.model.model_copy(update={"norm": norm, "head_init": "per_class"})
    training = recipe.training.model_copy(update={"ways": sampler.ways})
    models = {
        name: build_model(
            recipe.model_copy(update={"algorithm": name, "model": table, "training": training})
        )
        for name in ("anil", "maml")
    }
    for model in models.values():  # an optimizer that is built by a step makes Keras trace it twice
        model.optimizer.build(model.trainable_variables)
    inputs, labels = next(iter(sampler.dataset(1, recipe.training.tasks)))
    support, support_y = inputs["support_x"][0], inputs["support_y"][0]
    steps: dict[str, Callable[[], Any]] = {
        name: functools.partial(model.train_on_batch, inputs, labels)
        for name, model in models.items()
    }
    loops = {name: _make_adaptation(model, support, support_y) for name, model in models.items()}
    return {
        "train_step": _time_in_turns(steps, "Timing outer steps"),
        "adaptation": _time_in_turns(loops, "Timing adaptation"),
    }


def _make_adaptation(
    model: EpisodicModel, support: tf.Tensor, labels: tf.Tensor
) -> Callable[[], Any]:
    """The adaptation of one task from its support images, as each algorithm does it best."""

    @tf.function(autograph=False)
    def adapt(support: tf.Tensor, labels: tf.Tensor) -> Any:
        if model.adapts_body:
            initial = initial_weights(model)
            adapted = adapt_task(model, support, labels, initial, adapting_weights(model, initial))
            return [*adapted.body, *adapted.head]
        features, _ = model.embedding.run(support)
        return model.adapt_head(features[tf.newaxis], labels[tf.newaxis])(features[tf.newaxis])

    return lambda: [value.numpy() for value in tf.nest.flatten(adapt(support, labels))]


def _time_in_turns(calls: dict[str, Callable[[], Any]], description: str) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in track(range(REPEATS + 1), description):  # the first, which traces, does not count
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - started))
    median = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    figures = {name: round(value, 3) for name, value in median.items()}
    return {**figures, "ratio": round(median["maml"] / median["anil"], 2)}
