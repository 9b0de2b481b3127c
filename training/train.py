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
from anil_tf.episodes import ClassSampler, EpisodeSampler, SinusoidSampler
from anil_tf.maml import BOIL, MAML
from anil_tf.metrics import EpisodeAccuracy, EpisodeMeanSquaredError
from anil_tf.model import ANIL
from anil_tf.nil import NIL, Pretrained
from anil_tf.support.files import clear_partial, replacing
from anil_tf.support.json_files import write_json
from anil_tf.training.callbacks import (
    NumberGuard,
    Progress,
    StopRequest,
    resume_command,
    scalar_writers,
)
from anil_tf.training.checkpoints import Checkpoint, State, find_checkpoint, save_model
from anil_tf.training.distribution import (
    check_agreement,
    check_share,
    make_strategy,
    watching_workers,
)
from anil_tf.training.recipe import Recipe, read_recipe, write_recipe
from anil_tf.training.samplers import make_sampler

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
    regression = recipe.data.is_regression
    model = ALGORITHMS[recipe.algorithm](
        recipe.model.backbone.build(recipe.data.image_shape),
        ways=1 if regression else labels or training.ways,
        **options,
    )
    rate: Any = training.learning_rate
    if training.schedule == "cosine":
        steps = max(1, training.epochs * training.steps_per_epoch)
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    metric = EpisodeMeanSquaredError() if regression else EpisodeAccuracy()
    model.compile(keras.optimizers.Adam(rate), metrics=[metric])
    return model


def train(
    recipe: Recipe,
    output: Path,
    data_dir: Path | None = None,
    resume: bool = False,
    strategy: str = "none",
) -> dict[str, Any]:
    """Trains a recipe.

    Args:
        recipe: What to train.
        output: The run directory; created, and refused if it exists unless resuming.
        data_dir: Where the data lies.
        resume: Go on from the last checkpoint of `output`; begin if there is no such run yet, so
            that a supervisor can give the same command every time.
        strategy: Of `STRATEGIES`. The workers of a cluster share the folder of `output`.

    Returns:
        `steps`, `seconds` of the whole run, `images_per_second` since it was last resumed, and the
        `inner_lr`, learned or not.

    Raises:
        FileExistsError: `output` exists and `resume` is not set.
        OSError: A file cannot be written, or another worker of a cluster is gone.
        SystemExit: SIGTERM has stopped it, with status 143, and all is saved.
        ValueError: The recipe differs from the interrupted run's, or does not fit the data or the
            strategy; or the loss is no longer finite.
    """
    distribution = make_strategy(strategy)  # a cluster's before anything else of TensorFlow
    check_share(recipe.training.tasks, distribution)
    if recipe.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    writes = is_chief(distribution)
    if writes:
        check_output(recipe, output, resume)

    regression = recipe.data.is_regression
    classes = {} if regression else recipe.data.load(("train", "val"), data_dir)
    kind = ClassSampler if recipe.algorithm == "multiclass" else EpisodeSampler
    train_sampler, val_sampler = (
        make_sampler(recipe.data, classes.get(split), recipe.training, recipe.seed, split, sampler)
        for split, sampler in (("train", kind), ("val", EpisodeSampler))
    )
    labels = train_sampler.labels if isinstance(train_sampler, ClassSampler) else None
    with distribution.scope():
        model = build_model(recipe, labels)  # refuses bad arguments before anything is written
        model.optimizer.build(model.trainable_variables)

    checkpoints = output / "checkpoints"
    if writes:
        checkpoints.mkdir(parents=True, exist_ok=True)
        clear_partial(output)
        write_recipe(recipe, output / "recipe.toml")
        write_json(output / "environment.json", environment())
        if classes:
            save_examples(classes["train"], output / "examples.npz", recipe.seed)

    state = State()
    if resume and (found := find_checkpoint(checkpoints, writes)):
        path, state = found
        model.load_weights(path)
    first, started = state.step, time.perf_counter()
    with watching_workers(distribution):
        check_agreement(state.step, distribution)
        command = resume_command(output, data_dir, strategy)
        fit(recipe, model, (train_sampler, val_sampler), state, output, command)
        seconds = time.perf_counter() - started
        save_model(model, output / "model.keras", writes)

    training = recipe.training
    rows = (training.shots + training.queries) * (training.ways if classes else 1)
    images = (state.step - first) * training.tasks * rows
    metrics = {
        "steps": state.step,
        "seconds": round(state.total_seconds, 1),
        "images_per_second": round(images / seconds, 1),
        "inner_lr": model.inner_lr.numpy().tolist(),
    }
    if writes:
        write_json(output / "metrics.json", {"train": metrics})
    return metrics


def fit(
    recipe: Recipe,
    model: ANIL,
    samplers: tuple[EpisodeSampler | SinusoidSampler, EpisodeSampler | SinusoidSampler],
    state: State,
    output: Path,
    command: str,
) -> None:
    """Trains from where a run stands to its end, or until it is asked to stop.

    Args:
        recipe: What to train.
        model: Its model, as it stands.
        samplers: Of training and of validation.
        state: Where the run stands; kept up to date.
        output: The run directory.
        command: The command that goes on, for the user.
    """
    training, strategy = recipe.training, model.distribute_strategy
    batches, total = training.steps_per_epoch, training.epochs * training.steps_per_epoch
    writes = is_chief(strategy)
    progress = Progress(state, total, shown=writes)
    checkpoint = Checkpoint(output, state, writes)
    stop = StopRequest(checkpoint, lambda: progress.seconds, batches, command, strategy)
    guard = NumberGuard(recipe, state, samplers[0].seed, model.ways, checkpoint.folder)
    scalars = scalar_writers(output / "tensorboard") if writes else []
    with progress, stop.listening():
        while state.step < total:
            epoch, within = divmod(state.step, batches)
            epochs = 1 if within else training.epochs - epoch  # one that was broken off is alone
            episodes = samplers[0].dataset(
                epochs * batches - within, training.tasks, start=state.step * training.tasks
            )
            if within:  # the metrics are to exist before their values are put back
                with strategy.scope():
                    model._symbolic_build(data_batch=next(iter(episodes)))
            model.fit(
                episodes,
                epochs=epoch + epochs,
                initial_epoch=epoch,
                steps_per_epoch=batches - within,
                validation_data=samplers[1].dataset(
                    max(1, training.validation_episodes // training.tasks), training.tasks
                ),
                shuffle=False,  # episodes are drawn in order, from the seed
                verbose=0,
                callbacks=[guard, progress, *scalars, checkpoint, stop],
            )


def check_output(recipe: Recipe, output: Path, resume: bool) -> None:
    """Refuses to write over what is there, or to go on with a run of another recipe."""
    if not resume and output.exists():
        raise FileExistsError(f"{output} exists. Go on with --resume, or choose another --output")
    path = output / "recipe.toml"
    if not path.is_file():
        # A run that was killed as it began leaves hidden files and an empty folder.
        names = {entry.name for entry in output.iterdir()} if output.exists() else set()
        if any(name != "checkpoints" and not name.startswith(".") for name in names):
            raise FileNotFoundError(f"{output} is not a run to resume: it has no recipe.toml")
    elif read_recipe(path) != recipe:
        raise ValueError(
            f"The recipe differs from {path}. Resume with the recipe and --set of that run"
        )


def save_examples(classes: ClassImages, path: Path, seed: int) -> None:
    """Keeps a few images of some training classes: `image`, `label`, `names`."""
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
    """What the run was made with."""
    packages = ("tensorflow", "keras", "numpy", "tensorflow-datasets")
    return {
        "anil-tf": anil_tf.__version__,
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }
