"""Images of unknown classes that a run takes for learned ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from anil_tf.datasets.images import as_pictures
from anil_tf.episodes import EpisodeSampler
from anil_tf.training.run import FinishedRun
from anil_tf.training.scoring.open_set import ACCEPT, judge_episodes, score_open_set

SHOWN = 6  # images that were let through


@dataclass(frozen=True)
class UnknownClasses:
    """How well a run tells learned classes from others, and what it let through.

    Attributes:
        figures: As `evaluate_open_set` returns them.
        images: Images of unknown classes that were accepted, the most similar first,
            uint8 `[n, H, W, C]`.
        taken_for: For each a support image of the class that it was taken for, `[n, H, W, C]`.
        similarities: Its similarity to that class, `[n]`.
    """

    figures: dict[str, Any]
    images: np.ndarray
    taken_for: np.ndarray
    similarities: np.ndarray


def face_unknown(tested: FinishedRun, episodes: int) -> UnknownClasses | None:
    """Learns half of the classes of test episodes and judges images of all.

    Args:
        tested: Run to measure.
        episodes: Number of episodes.

    Returns:
        None for a regression, for a head with fixed columns, and for fewer than four test classes.
    """
    classes, recipe = tested.classes, tested.recipe
    if classes is None or recipe.model.head_init == "per_class":
        return None
    ways = min(recipe.evaluation.ways, len(classes.names) // 2)
    sampler = tested.sampler(ways=2 * ways)
    if ways < 2 or not isinstance(sampler, EpisodeSampler):
        return None
    table = tested.directory.read_metrics().get("acceptance")
    judged = list(judge_episodes(tested.runtime, sampler, episodes, tested.steps, table))
    figures = score_open_set(tested.runtime, sampler, judged, tested.steps, table is not None)
    figures |= {"split": tested.split, "norm": recipe.model.norm}
    line = np.quantile(np.concatenate([one.resembled[one.known] for one in judged]), 1 - ACCEPT)
    found = sorted(
        (
            (-float(one.resembled[row]), number, row)
            for number, one in enumerate(judged)
            for row in np.flatnonzero(~one.known & (one.resembled >= line))
        ),
    )[:SHOWN]
    images, taken_for = [], []
    for _, number, row in found:
        one = judged[number]
        episode = sampler.episode(one.number)
        images.append(episode["query_x"][row])
        first = np.argmax(episode["support_y"] == one.named[row])
        taken_for.append(episode["support_x"][first])
    shape = (len(found), *classes.images.shape[1:])
    return UnknownClasses(
        figures,
        as_pictures(np.reshape(images, shape)),
        as_pictures(np.reshape(taken_for, shape)),
        np.array([-negative for negative, _, _ in found]),
    )
