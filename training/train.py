"""From a recipe to a run directory, through Keras `fit`."""

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

import anil_tf
from anil_tf.datasets.images import ClassImages
from anil_tf.episodes import ClassSampler, EpisodeSampler
from anil_tf.figures import write_json
from anil_tf.maml import BOIL, MAML
from anil_tf.metrics import EpisodeAccuracy, EpisodeMeanSquaredError
from anil_tf.model import ANIL
from anil_tf.nil import NIL, Pretrained
from anil_tf.training.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    total_seconds,
    truncate_history,
)
from anil_tf.training.recipe import Recipe, read_recipe, write_recipe
from anil_tf.training.samplers import make_sampler
from anil_tf.training.tensorboard import scalar_writers

ALGORITHMS: dict[str, type[ANIL]] = {
    "anil": ANIL,
    "maml": MAML,
    "boil": BOIL,
    "nil": NIL,
    "multitask": Pretrained,
    "multiclass": Pretrained,
}

# A few training images that travel with the run: export verifies and calibrates on them.
EXAMPLE_CLASSES, EXAMPLES_PER_CLASS = 10, 6


def build_model(recipe: Recipe, labels: int | None = None) -> ANIL:
    """The compiled model of a recipe, initialised from its seed.

    Args:
        recipe: What to build.
        labels: Outputs of the head in training; the ways of the training episodes by default.
    """
    keras.utils.set_random_seed(recipe.seed)
    training, options = recipe.training, recipe.model.model_dump(exclude={"backbone"})
    regression = recipe.data.source == "sinusoid"
    model = ALGORITHMS[recipe.algorithm](
        recipe.model.backbone.build(recipe.data.image_shape),
        ways=1 if regression else labels or training.ways,
        **options,
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        training.learning_rate, max(1, training.epochs * training.steps_per_epoch)
    )
    metric = EpisodeMeanSquaredError() if regression else EpisodeAccuracy()
    model.compile(keras.optimizers.Adam(schedule), metrics=[metric])
    return model


def train(
    recipe: Recipe, output: Path, data_dir: Path | None = None, resume: bool = False
) -> dict[str, Any]:
    """Trains a recipe.

    Args:
        recipe: What to train.
        output: The run directory; created, and refused if it exists unless resuming.
        data_dir: Where the data lies.
        resume: Go on from the last checkpoint of `output`.

    Returns:
        `steps`, `seconds` of the whole run, `images_per_second` since it was last resumed, and the
        `inner_lr`, learned or not.

    Raises:
        FileExistsError: `output` exists and `resume` is not set.
        ValueError: The recipe differs from the interrupted run's, or does not fit the data.
    """
    if resume:
        check_resumable(recipe, output)
    elif output.exists():
        raise FileExistsError(f"{output} exists. Go on with --resume, or choose another --output")

    regression = recipe.data.source == "sinusoid"
    classes = {} if regression else recipe.data.load(("train", "val"), data_dir)
    kind = ClassSampler if recipe.algorithm == "multiclass" else EpisodeSampler
    train_sampler, val_sampler = (
        make_sampler(recipe.data, classes.get(split), recipe.training, recipe.seed, split, sampler)
        for split, sampler in (("train", kind), ("val", EpisodeSampler))
    )
    labels = train_sampler.labels if isinstance(train_sampler, ClassSampler) else None
    model = build_model(recipe, labels)  # refuses bad arguments before anything is written

    checkpoints = output / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    write_recipe(recipe, output / "recipe.toml")
    write_json(output / "environment.json", environment())
    if classes:
        save_examples(classes["train"], output / "examples.npz", recipe.seed)

    done = 0
    if resume and (found := latest_checkpoint(checkpoints)):
        path, done = found
        model = keras.saving.load_model(path)
        truncate_history(output / "history.csv", done)

    training = recipe.training
    batches, epochs = training.steps_per_epoch, training.epochs
    started = time.perf_counter()
    if done < epochs:
        model.fit(
            train_sampler.dataset(
                batches * (epochs - done), training.tasks, start=done * batches * training.tasks
            ),
            epochs=epochs,
            initial_epoch=done,
            steps_per_epoch=batches,
            validation_data=val_sampler.dataset(
                max(1, training.validation_episodes // training.tasks), training.tasks
            ),
            shuffle=False,  # episodes are drawn in order, from the seed
            verbose=0,
            callbacks=[
                Progress(done, epochs, batches),
                keras.callbacks.TerminateOnNaN(),
                keras.callbacks.CSVLogger(str(output / "history.csv"), append=resume),
                Checkpoint(checkpoints),
                *scalar_writers(output / "tensorboard"),
            ],
        )
    seconds = time.perf_counter() - started

    if not model.optimizer.built:  # without a step; the file would not load compiled
        model.optimizer.build(model.trainable_variables)
    model.save(output / "model.keras")
    rows = (training.shots + training.queries) * (training.ways if classes else 1)
    images = (epochs - done) * batches * training.tasks * rows
    metrics = {
        "steps": epochs * batches,
        "seconds": round(total_seconds(output / "history.csv"), 1),
        "images_per_second": round(images / seconds, 1),
        "inner_lr": model.inner_lr.numpy().tolist(),
    }
    write_json(output / "metrics.json", {"train": metrics})
    return metrics


def check_resumable(recipe: Recipe, output: Path) -> None:
    """Refuses to go on with a run of another recipe."""
    path = output / "recipe.toml"
    if not path.is_file():
        raise FileNotFoundError(f"{output} is not a run to resume: it has no recipe.toml")
    if read_recipe(path) != recipe:
        raise ValueError(
            f"The recipe differs from {path}. Resume with the recipe and --set of that run"
        )


def save_examples(classes: ClassImages, path: Path, seed: int) -> None:
    """Keeps a few images of some training classes: `image`, `label`, `names`."""
    rng = np.random.default_rng(seed)
    available = len(classes.names)
    chosen = rng.choice(available, min(EXAMPLE_CLASSES, available), replace=False)
    images = [classes.of(index)[:EXAMPLES_PER_CLASS] for index in chosen]
    np.savez_compressed(
        path,
        image=np.concatenate(images),
        label=np.repeat(np.arange(len(chosen), dtype=np.int32), [len(rows) for rows in images]),
        names=np.array([classes.names[index] for index in chosen]),
    )


def environment() -> dict[str, Any]:
    """What the run was made with."""
    packages = ("tensorflow", "keras", "numpy", "tensorflow-datasets")
    return {
        "anil-tf": anil_tf.__version__,
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }


class Progress(keras.callbacks.Callback):
    """One bar over all steps, and a line an epoch.

    Args:
        done: Epochs already trained.
        epochs: Epochs in all.
        steps: Steps of an epoch.
    """

    def __init__(self, done: int, epochs: int, steps: int) -> None:
        super().__init__()
        self.done, self.epochs, self.steps = done, epochs, steps

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Opens the bar."""
        total, initial = self.epochs * self.steps, self.done * self.steps
        self.since = time.perf_counter()
        self.bar = tqdm(desc="Training", total=total, initial=initial, unit="step", disable=None)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Moves the bar."""
        self.bar.update()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the epoch's figures; leaves its `wall_seconds` for the history."""
        figures = ", ".join(
            f"{name} {value:.4f}" for name, value in (logs or {}).items() if "before" not in name
        )
        now = time.perf_counter()
        if logs is not None:
            logs["wall_seconds"] = now - self.since
        self.since = now
        tqdm.write(f"step {(epoch + 1) * self.steps}/{self.epochs * self.steps}: {figures}")

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the bar."""
        self.bar.close()
