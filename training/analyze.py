"""Rapid learning or feature reuse? What the inner loop changes in a run (Raghu et al. 2020).

The paper's three experiments on the run's test tasks: adaptation with the first layers frozen,
similarity of every layer before and after the inner loop, and a test without head and inner loop.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from anil_tf.episodes import EpisodeSampler
from anil_tf.episodic import EpisodicModel
from anil_tf.maml import Weights, adapt_task, adapting_weights, apply_head, initial_weights
from anil_tf.metrics import mean_and_ci95
from anil_tf.nil import predict_by_cosines
from anil_tf.similarity import as_rows, linear_cka, svcca
from anil_tf.support.json_files import write_json
from anil_tf.support.keras_private import output_of
from anil_tf.support.progress import track
from anil_tf.training.run import FinishedRun
from anil_tf.training.speed import measure_speed
from anil_tf.training.wording import percent, share

TASK = ("support_x", "support_y", "query_x")
HEAD = "head"


def analyze(
    run: Path, data_dir: Path | None = None, tasks: int = 100, split: str = "test"
) -> dict[str, Any]:
    """Analyses a run, and writes `analysis.json` and `analysis.png` into it.

    Args:
        run: Directory of a finished classification run with a Functional or Sequential backbone.
        data_dir: Folder of the data.
        tasks: Number of tasks to average over, at least two.
        split: Split whose classes the tasks are drawn from.

    Returns:
        `algorithm`, `norm`, `split`, `seed`, `tasks`, `ways`, `shots`, `queries`, `inner_steps`;
        `nil`, an accuracy; `freezing`, accuracies with the first layers frozen; `similarity` of
        each layer before and after the inner loop; `speed` in milliseconds.

    Raises:
        FileNotFoundError: The run is not there or not finished.
        ValueError: The run is a regression, or its backbone has no layers to read.
    """
    opened = FinishedRun(run, data_dir, split)
    recipe, sampler = opened.recipe, opened.sampler()
    if not isinstance(sampler, EpisodeSampler):
        raise ValueError("Only classification is analysed. Received: a run of sine waves")
    figures = {
        "algorithm": recipe.algorithm,
        "norm": recipe.model.norm,
        "split": split,
        "seed": recipe.seed,
        "tasks": tasks,
        "ways": sampler.ways,
        "shots": sampler.shots,
        "queries": sampler.queries,
        "inner_steps": opened.steps,
        **compare_tasks(opened.runtime.model, sampler, tasks, opened.steps),
        "speed": measure_speed(recipe, sampler),
    }
    write_json(opened.directory.analysis_file, figures)
    from anil_tf.training.report.pictures import draw_analysis

    draw_analysis(figures, opened.directory.analysis_picture)
    return figures


def list_blocks(backbone: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """The layers of each block, in order. A block's name is the beginning of its layers' names.

    `block1_conv` and `block1_relu` make up `block1`. Layers before the first and after the last
    block that has weights belong to none.

    Raises:
        ValueError: The backbone has no graph of layers, or none with weights.
    """
    if not getattr(backbone, "inputs", None):
        raise ValueError(
            "Layers are read off a Functional or Sequential backbone. "
            f"Received: {type(backbone).__name__}"
        )
    weighted = [layer.name.partition("_")[0] for layer in backbone.layers if layer.weights]
    if not weighted:
        raise ValueError(f"{backbone.name} has no layers with weights")
    names = dict.fromkeys(weighted)
    return {
        name: [layer for layer in backbone.layers if layer.name.partition("_")[0] == name]
        for name in names
    }


def compare_tasks(
    model: EpisodicModel, sampler: EpisodeSampler, tasks: int, steps: int
) -> dict[str, Any]:
    """`nil`, `freezing` and `similarity` over the sampler's first tasks.

    Freezing applies where the body adapts: `frozen` lists the layers that do not. Similarities are
    of the queries' activations; SVCCA keeps 99% of the variance and has one row per position
    of a convolution; CKA has one row per image.
    """
    blocks = list_blocks(model.backbone)
    names = list(blocks)
    depths = range(len(names) + 1) if model.adapts_body else ()
    experiment = _make_experiment(model, blocks, depths, sampler.ways, steps)
    cosines = tf.function(
        lambda inputs: predict_by_cosines(model, inputs, sampler.ways)[0], autograph=False
    )

    right: dict[Any, list[float]] = {key: [] for key in ("nil", *depths)}
    alike: dict[str, dict[str, list[float]]] = {
        name: {"svcca": [], "cka": []} for name in (*names, *([] if model.head is None else [HEAD]))
    }
    for index in track(range(tasks), "Analysing", unit="task"):
        episode = sampler.episode(index)
        inputs = {key: tf.constant(episode[key]) for key in TASK}
        outcome = experiment(*inputs.values())
        batch = {key: value[tf.newaxis] for key, value in inputs.items()}
        logits: dict[Any, tf.Tensor] = {**outcome.logits, "nil": cosines(batch)}
        for key, values in logits.items():
            right[key].append(float(np.mean(values.numpy().argmax(-1) == episode["query_y"])))
        for name, old, new in zip(alike, outcome.before, outcome.after, strict=True):
            old, new = old.numpy(), new.numpy()
            alike[name]["svcca"].append(svcca(as_rows(old), as_rows(new)))
            images = len(old)
            alike[name]["cka"].append(linear_cka(old.reshape(images, -1), new.reshape(images, -1)))
    return {
        "nil": _mean("accuracy", right["nil"]),
        "freezing": [
            {"frozen": names[:depth], **_mean("accuracy", right[depth])} for depth in depths
        ],
        "similarity": {
            name: {
                **_mean("svcca", values["svcca"], "svcca_"),
                **_mean("cka", values["cka"], "cka_"),
            }
            for name, values in alike.items()
        },
    }


def _mean(name: str, values: Sequence[float], prefix: str = "") -> dict[str, float | None]:
    """A mean and its interval; None where a value is not defined (a constant layer)."""
    mean, interval = mean_and_ci95(values)
    if not np.isfinite(mean):
        return {name: None, f"{prefix}ci95": None}
    return {name: mean, f"{prefix}ci95": interval}


class _Outcome(NamedTuple):
    """What one task shows.

    `logits` of the queries, by the number of frozen blocks; the queries' activations in every block
    and in the head, with the initial weights and with the adapted weights.
    """

    logits: dict[int, tf.Tensor]
    before: list[tf.Tensor]
    after: list[tf.Tensor]


def _make_experiment(
    model: EpisodicModel,
    blocks: dict[str, list[keras.layers.Layer]],
    depths: Sequence[int],
    ways: int,
    steps: int,
) -> Callable[..., _Outcome]:
    """Makes a function from a task's support, labels and query to its `_Outcome`.

    Args:
        model: Model to run.
        blocks: Layers of each block, from `list_blocks`.
        depths: Numbers of blocks to freeze; none where the body does not adapt.
        ways: Number of classes of the task.
        steps: Number of inner steps.
    """
    activations = _make_probe(model, blocks)
    block_of = {
        id(variable): number
        for number, layers in enumerate(blocks.values())
        for layer in layers
        for variable in layer.trainable_variables
    }

    def adapt(support: tf.Tensor, labels: tf.Tensor, initial: Weights, depth: int) -> Weights:
        adapting = adapting_weights(model, initial)
        for index, variable in enumerate(model.backbone.trainable_variables):
            adapting[index] = adapting[index] and block_of[id(variable)] >= depth
        # A tensor of steps makes a loop: unrolled, the depths take most of the time to trace.
        return adapt_task(model, support, labels, initial, adapting, tf.constant(steps))

    @tf.function(autograph=False)
    def run(support: tf.Tensor, labels: tf.Tensor, query: tf.Tensor) -> _Outcome:
        initial = initial_weights(model, ways)
        adapted = adapt(support, labels, initial, 0)
        before, after = (activations(weights, support, query) for weights in (initial, adapted))
        logits = {depth: after[-1] for depth in depths if depth == 0}
        for depth in depths[1:]:
            frozen = adapt(support, labels, initial, depth)
            _, features = model.embedding.embed_task(support, query, frozen.body)
            logits[depth] = apply_head(model, frozen.head, features)
        return _Outcome(logits, before, after)

    return run


def _make_probe(
    model: EpisodicModel, blocks: dict[str, list[keras.layers.Layer]]
) -> Callable[[Weights, tf.Tensor, tf.Tensor], list[tf.Tensor]]:
    """Makes a function from weights, support and query to the queries' activations.

    They are those of every block, and the logits where there is a head.
    """
    backbone = model.backbone
    outputs = [output_of(layers[-1]) for layers in blocks.values()]
    probe = keras.Model(backbone.inputs, [*outputs, backbone.outputs[0]])

    def order(values: Sequence[tf.Tensor], trainable: bool) -> list[tf.Tensor]:
        """Sorts values from the order of the backbone's variables to that of the probe's."""
        own, others = (
            model.trainable_variables if trainable else model.non_trainable_variables
            for model in (probe, backbone)
        )
        by_variable = {id(other): value for other, value in zip(others, values, strict=True)}
        return [tf.convert_to_tensor(by_variable[id(variable)]) for variable in own]

    def activations(weights: Weights, support: tf.Tensor, query: tf.Tensor) -> list[tf.Tensor]:
        state = backbone.non_trainable_variables
        if model.norm == "support":
            _, state = model.embedding.run(support, weights.body)
        (*layers, features), _ = probe.stateless_call(
            order(weights.body, True), order(state, False), query, training=model.is_transductive
        )
        if model.head is None:
            return layers
        return [*layers, apply_head(model, weights.head, tf.cast(features, tf.float32))]

    return activations


def format_analysis(figures: dict[str, Any]) -> str:
    """An analysis as tables for a terminal."""
    lines = [
        f"{figures['algorithm']}, {figures['tasks']} tasks of the {figures['split']} split, "
        f"{figures['ways']}-way {figures['shots']}-shot, {figures['inner_steps']} inner steps, "
        f"norm={figures['norm']}",
        "",
        f"without head and inner loop (NIL)         {percent(figures['nil'])}",
    ]
    for row in figures["freezing"]:
        frozen = ", ".join(row["frozen"]) or "none"
        lines.append(f"frozen: {frozen:<34}{percent(row)}")
    lines += ["", f"{'before and after':<22}{'SVCCA':<18}CKA"]
    for name, row in figures["similarity"].items():
        svcca_text, cka_text = (share(row[key], row[f"{key}_ci95"]) for key in ("svcca", "cka"))
        lines.append(f"{name:<22}{svcca_text:<18}{cka_text}")
    lines += ["", f"{'milliseconds':<22}{'ANIL':<10}{'MAML':<10}times"]
    for name, row in figures["speed"].items():
        label = name.replace("_", " ")
        lines.append(f"{label:<22}{row['anil']:<10.1f}{row['maml']:<10.1f}{row['ratio']:.1f}")
    return "\n".join(lines)
