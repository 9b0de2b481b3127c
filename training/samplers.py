"""The samplers of a recipe."""

import warnings
from typing import Any, NamedTuple

from anil_tf.datasets.images import ClassImages
from anil_tf.datasets.splits import WITHOUT_TRAINING
from anil_tf.episodes import ClassSampler, EpisodeSampler, SinusoidSampler
from anil_tf.training.recipe import DataTable, EvaluationTable, Recipe, TrainingTable

# Each split draws from a stream of its own, so that runs with one seed never share episodes.
_STREAMS = {"train": 0, "val": 1, "test": 2}
_FEWEST_TRAINING_CLASSES = 4


def make_sampler(
    data: DataTable,
    classes: ClassImages | None,
    episodes: TrainingTable | EvaluationTable,
    seed: int,
    split: str,
    kind: type[EpisodeSampler] = EpisodeSampler,
    shots: tuple[int, int] | None = None,
    image_classes: bool = False,
) -> EpisodeSampler | SinusoidSampler:
    """The sampler of one split.

    Args:
        data: The recipe's data table.
        classes: Classes of the split; None for sine waves.
        episodes: The recipe's table with the ways, shots and queries.
        seed: Seed of the run or of an evaluation.
        split: `train`, `val` or `test`.
        kind: Class of the sampler.
        shots: Least and most support images per class, in place of the table's number.
        image_classes: Whether data sets also have the class of each image.

    Raises:
        ValueError: The classes are too few or have too few images.
    """
    seed = seed * len(_STREAMS) + _STREAMS[split]
    if classes is None:
        return SinusoidSampler(episodes.shots, episodes.queries, seed)
    changes: dict[str, Any] = {"image_classes": image_classes}
    if isinstance(episodes, TrainingTable) and split == "train":
        changes |= {name: getattr(episodes, name) for name in ("distortion", "flips", "recoloring")}
    try:
        return kind(
            classes,
            episodes.ways,
            shots or episodes.shots,
            episodes.queries,
            seed,
            data.rotations,
            **changes,
        )
    except ValueError as error:
        table = "training" if isinstance(episodes, TrainingTable) else "evaluation"
        raise ValueError(
            f"The {split} split is too small: {error}. Lower {table}.ways, {table}.shots or "
            f"{table}.queries, or give more data. {WITHOUT_TRAINING}"
        ) from error


class Samplers(NamedTuple):
    """The episodes of a training.

    Attributes:
        training: Draws training episodes.
        validation: Draws validation episodes.
    """

    training: EpisodeSampler | SinusoidSampler
    validation: EpisodeSampler | SinusoidSampler

    @property
    def classes(self) -> int | None:
        """Number of training classes, turned ones counted; None for a regression."""
        return self.training.classes if isinstance(self.training, EpisodeSampler) else None


def make_samplers(recipe: Recipe, classes: dict[str, ClassImages]) -> Samplers:
    """The samplers of a recipe's training.

    Args:
        recipe: Recipe to train.
        classes: Classes of the splits `train` and `val`; none for a regression.
    """
    kind = ClassSampler if recipe.algorithm == "multiclass" else EpisodeSampler
    training, validation = (
        make_sampler(
            recipe.data,
            classes.get(split),
            _fit_ways(recipe, classes.get(split), split),
            recipe.seed,
            split,
            sampler,
            image_classes=split == "train" and recipe.model.image_weight > 0,
        )
        for split, sampler in (("train", kind), ("val", EpisodeSampler))
    )
    return Samplers(training, validation)


def _fit_ways(recipe: Recipe, classes: ClassImages | None, split: str) -> TrainingTable:
    """The training table, with fewer ways where the split has fewer classes.

    Only a shared head takes any number of classes. A handful of training classes is too few: every
    episode would be the same.
    """
    training = recipe.training
    shared = recipe.model.head_init == "shared"
    fewest = _FEWEST_TRAINING_CLASSES if split == "train" else 2
    if classes is None or not shared or not fewest <= len(classes.names) < training.ways:
        return training
    warnings.warn(
        f"The {split} split has {len(classes.names)} classes: its episodes have as many ways, "
        f"instead of {training.ways}",
        stacklevel=2,
    )
    return training.model_copy(update={"ways": len(classes.names)})
