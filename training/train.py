"""From a recipe to a run directory, through Keras `fit`."""

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import anil_tf
from anil_tf.datasets.images import ClassImages
from anil_tf.distribution import is_chief
from anil_tf.episodic import EpisodicModel
from anil_tf.support.files import clear_partial, replacing
from anil_tf.support.json_files import write_json
from anil_tf.support.keras_private import build_metrics
from anil_tf.training.callbacks import (
    Checkpoint,
    Counter,
    NumberGuard,
    Progress,
    StopRequest,
    resume_command,
)
from anil_tf.training.checkpoints import State, TrainingRun
from anil_tf.training.distribution import (
    check_agreement,
    check_share,
    make_strategy,
    watching_workers,
)
from anil_tf.training.recipe import Recipe, write_recipe
from anil_tf.training.recipe.building import build_model, finish_model
from anil_tf.training.run import RunDirectory
from anil_tf.training.samplers import Samplers, make_samplers
from anil_tf.training.scoring.open_set import measure_run
from anil_tf.training.watch.curve import Curve, watch_gradients
from anil_tf.training.watch.tensorboard import make_tensorboard

# A few training images are kept with the run: export verifies and calibrates on them.
EXAMPLE_CLASSES, EXAMPLES_PER_CLASS = 10, 6


def train(
    recipe: Recipe,
    output: Path,
    data_dir: Path | None = None,
    resume: bool = False,
    strategy: str = "none",
) -> dict[str, Any]:
    """Trains a recipe.

    Args:
        recipe: Recipe to train.
        output: The run directory. It is created, and must not exist unless resuming.
        data_dir: Folder of the data.
        resume: Whether to continue from the last checkpoint in `output`. Training starts from the
            beginning if there is no such run yet, so that a supervisor can repeat one command.
        strategy: `"none"`, `"mirrored"` or `"multiworker"`; see
            `anil_tf.training.distribution.make_strategy`. The workers of a cluster share the folder
            `output`.

    Returns:
        `steps`, `seconds` of the whole run, `images_per_second` since it was last resumed, and the
        `inner_lr`, learned or not.

    Raises:
        FileExistsError: `output` exists and `resume` is not set.
        OSError: A file cannot be written, or another worker of a cluster is gone.
        SystemExit: SIGTERM has stopped the training; the status is 143, and all is saved.
        ValueError: The recipe differs from the interrupted run's, or does not fit the data or the
            strategy; or the loss is no longer finite.
    """
    distribution = make_strategy(strategy)  # a cluster's before anything else of TensorFlow
    check_share(recipe.training.tasks, distribution)
    if recipe.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    directory = RunDirectory(output)
    command = resume_command(output, data_dir, strategy)
    run = TrainingRun(directory, is_chief(distribution), command, recipe.training.patience)
    if run.writes:
        check_output(recipe, directory, resume)

    classes = load_classes(recipe, data_dir)
    samplers = make_samplers(recipe, classes)
    with distribution.scope():
        # Bad arguments are refused here, before any file exists.
        model = build_model(recipe, samplers.classes)
        model.optimizer.build(model.trainable_variables)
    resumed = resume and run.resume(model)
    if recipe.training.start_from and not resumed:
        start_from(recipe.training.start_from, model)
    if run.writes:
        prepare(directory, recipe, classes.get("train"))

    first, started = run.state.step, time.perf_counter()
    with watching_workers(distribution):
        check_agreement(first, distribution)
        fit(recipe, model, samplers, run)
        seconds = time.perf_counter() - started
        run.restore_best(model)
        with distribution.scope():
            finished = finish_model(recipe, model, samplers.classes)
        run.save_model(finished)
    metrics = {
        "steps": run.state.step,
        "seconds": round(run.state.total_seconds, 1),
        "images_per_second": round(recipe.images_per_step * (run.state.step - first) / seconds, 1),
        "inner_lr": model.inner_lr.numpy().tolist(),
        **_describe_best(run.state),
    }
    if run.writes:
        # A finished run that is resumed has the same weights: what was measured stays true.
        measured = directory.read_metrics() if run.state.step == first else {}
        found = {"train": metrics, **measured}
        write_json(directory.metrics_file, found)
        if "acceptance" not in found and (table := measure_run(directory, classes.get("val"))):
            write_json(directory.metrics_file, found | {"acceptance": table})
    return metrics


def _describe_best(state: State) -> dict[str, Any]:
    """The validation before training and at the best weights, where these are kept."""
    if not state.before:
        return {}
    epoch = state.best_epoch
    metric = "accuracy" if "accuracy" in state.before else "loss"
    best = state.history[epoch - 1][f"val_{metric}"] if epoch else state.before[metric]
    return {
        "best_epoch": epoch,
        f"val_{metric}_before": state.before[metric],
        f"val_{metric}": best,
    }


def load_classes(recipe: Recipe, data_dir: Path | None) -> dict[str, ClassImages]:
    """The classes to train on and to validate on, by split; none for a regression."""
    return {} if recipe.data.is_regression else recipe.data.load(("train", "val"), data_dir)


def start_from(path: Path, model: EpisodicModel) -> None:
    """Gives a model's backbone the weights of the backbone of a finished run.

    Raises:
        FileNotFoundError: There is no finished run.
        ValueError: The run has another backbone.
    """
    directory = RunDirectory(path)
    directory.check_finished()
    trained = keras.saving.load_model(directory.model_file, compile=False)
    try:
        model.backbone.set_weights(trained.backbone.get_weights())
    except ValueError as error:
        raise ValueError(
            f"training.start_from: the weights of {path} do not fit this recipe's backbone: {error}"
        ) from error


def prepare(directory: RunDirectory, recipe: Recipe, classes: ClassImages | None) -> None:
    """Writes what a run directory holds before the first step.

    Args:
        directory: Files of the run.
        recipe: Recipe of the run.
        classes: Classes to train on; None for a regression.
    """
    directory.checkpoints.mkdir(parents=True, exist_ok=True)
    clear_partial(directory.path)
    clear_partial(directory.checkpoints)
    write_recipe(recipe, directory.recipe_file)
    write_json(directory.environment_file, environment())
    if classes is not None:
        save_examples(classes, directory.examples_file, recipe.seed)


def fit(recipe: Recipe, model: EpisodicModel, samplers: Samplers, run: TrainingRun) -> None:
    """Trains a run from its current state to its end, or until it is asked to stop.

    Args:
        recipe: Recipe of the run.
        model: Compiled model with the run's weights.
        samplers: Training and validation episodes.
        run: The run. Its state is kept up to date.
    """
    training, strategy, state = recipe.training, model.distribute_strategy, run.state
    batches, total = training.steps_per_epoch, training.epochs * training.steps_per_epoch
    progress = Progress(run, total)
    stop = StopRequest(run, batches, strategy)
    board = make_tensorboard(run, recipe, samplers.validation)
    shown = [board.show_point] if board else []
    # Keras calls them in this order. The counter comes first: all others read the state that it
    # counts, and its `wall_seconds` belong to the metrics. The guard comes before the checkpoint:
    # weights that are not finite are never saved. The checkpoint comes before the stop, which ends
    # the process.
    callbacks = [
        Counter(run),
        NumberGuard(run, recipe, samplers.training.seed, model.ways),
        progress,
        Curve(run, batches, total, watch_gradients(model), shown),
        *([board] if board else []),
        Checkpoint(run),
        stop,
    ]
    validation = samplers.validation.dataset(
        max(1, training.validation_episodes // training.tasks), training.tasks
    )
    with progress, stop.listening():
        run.start(model, validation)
        while state.step < total and not run.has_stopped:
            epoch, within = divmod(state.step, batches)  # an interrupted epoch comes alone
            # Whole epochs are data sets of their own: the last execution of an epoch then has as
            # many steps as are left.
            episodes = samplers.training.dataset(
                batches - within,
                training.tasks,
                start=state.step * training.tasks if within else 0,
                draw_on=training.draw_on,
            )
            if within:  # the metrics must exist before their values are restored
                with strategy.scope():
                    build_metrics(model, next(iter(episodes)))
            model.fit(
                episodes,
                epochs=epoch + 1 if within else training.epochs,
                initial_epoch=epoch,
                steps_per_epoch=batches - within if within else None,
                validation_data=validation,
                shuffle=False,  # episodes are drawn in order, from the seed
                verbose=0,
                callbacks=callbacks,
            )


def check_output(recipe: Recipe, directory: RunDirectory, resume: bool) -> None:
    """Refuses to overwrite a folder, or to resume a run of another recipe."""
    output, recipe_file = directory.path, directory.recipe_file
    if not resume and output.exists():
        raise FileExistsError(
            f"{output} exists. Resume that run with --resume, or choose another --output"
        )
    if not recipe_file.is_file():
        # A run that was killed as it began leaves hidden files and an empty folder.
        names = {entry.name for entry in output.iterdir()} if output.exists() else set()
        known = directory.checkpoints.name
        if any(name != known and not name.startswith(".") for name in names):
            raise FileNotFoundError(f"{output} is not a run to resume: it has no recipe.toml")
    elif directory.read_recipe() != recipe:
        raise ValueError(
            f"The recipe differs from {recipe_file}. Resume with the recipe and --set of that run"
        )


def save_examples(classes: ClassImages, path: Path, seed: int) -> None:
    """Writes a few images of some training classes: `image`, `label`, `names`."""
    rng = np.random.default_rng(seed)
    available = len(classes.names)
    chosen = rng.choice(available, min(EXAMPLE_CLASSES, available), replace=False)
    images = [classes.of(index)[:EXAMPLES_PER_CLASS] for index in chosen]
    with replacing(path) as partial:
        np.savez_compressed(
            partial,
            image=np.concatenate(images),
            label=np.repeat(np.arange(len(chosen), dtype=np.int32), [len(rows) for rows in images]),
            names=np.array([classes.names[index] for index in chosen]),
        )


def environment() -> dict[str, Any]:
    """The versions and devices that the run is made with."""
    packages = ("tensorflow", "keras", "numpy", "tensorflow-datasets")
    return {
        "anil-tf": anil_tf.__version__,
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }
