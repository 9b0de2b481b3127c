"""The samplers of a recipe."""

from anil_tf.datasets.images import ClassImages
from anil_tf.episodes import EpisodeSampler, SinusoidSampler
from anil_tf.training.recipe import Data, Evaluation, Training

# Each split draws from a stream of its own, so that runs with one seed never share episodes.
_STREAMS = {"train": 0, "val": 1, "test": 2}


def make_sampler(
    data: Data,
    classes: ClassImages | None,
    episodes: Training | Evaluation,
    seed: int,
    split: str,
    kind: type[EpisodeSampler] = EpisodeSampler,
    shots: tuple[int, int] | None = None,
) -> EpisodeSampler | SinusoidSampler:
    """The sampler of one split.

    Args:
        data: The recipe's data table.
        classes: The split's classes; none for sine waves.
        episodes: Gives the ways, shots and queries.
        seed: The run's, or that of an evaluation.
        split: `train`, `val` or `test`.
        kind: Sampler to make of the classes.
        shots: Least and most support images per class, in place of the table's number.

    Raises:
        ValueError: The classes are too few or have too few images.
    """
    seed = seed * len(_STREAMS) + _STREAMS[split]
    if classes is None:
        return SinusoidSampler(episodes.shots, episodes.queries, seed)
    try:
        return kind(
            classes,
            episodes.ways,
            shots or episodes.shots,
            episodes.queries,
            seed,
            data.rotations,
            episodes.distortion if isinstance(episodes, Training) and split == "train" else 0.0,
        )
    except ValueError as error:
        table = "training" if isinstance(episodes, Training) else "evaluation"
        raise ValueError(
            f"The {split} split is too small: {error}. Lower {table}.ways, {table}.shots or "
            f"{table}.queries, or give more data"
        ) from error
