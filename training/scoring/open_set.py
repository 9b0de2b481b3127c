"""None of these: thresholds from validation classes, and how well they hold on other classes."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from anil_tf.acceptance import RATES, SHOTS, WAYS, find_thresholds
from anil_tf.closed_form import similarity
from anil_tf.datasets.images import ClassImages
from anil_tf.embedding import EXPORTED_NORMS
from anil_tf.episodes import EpisodeSampler
from anil_tf.export.runtime import Runtime
from anil_tf.metrics import auroc, mean_and_ci95
from anil_tf.model import ANIL
from anil_tf.saving import load_model
from anil_tf.support.progress import track
from anil_tf.training.keras_runtime import image_features
from anil_tf.training.recipe import Recipe
from anil_tf.training.run import RunDirectory
from anil_tf.training.samplers import make_sampler
from anil_tf.training.scoring.calibration import calibration, fit_temperature

# Of 200 episodes of 5 ways with 5 queries, the threshold at a share of 0.95 accepts 0.95 +- 0.006
# of the images of other classes.
EPISODES = 200
QUERIES = 5
ACCEPT = 0.95  # the share at which an evaluation reports


def measure_acceptance(
    model: ANIL, sampler: EpisodeSampler, episodes: int = EPISODES, steps: int | None = None
) -> dict[str, Any]:
    """The thresholds of similarity that shares of the images of known classes reach.

    An image's similarity is that to the class which the adapted head names, rightly or not.

    Args:
        model: A trained model.
        sampler: Sampler of episodes of validation classes, with a fixed number of shots. The table
            has those of the shots 1, 2, 5 and 10 that are at most this many. With a shared head the
            temperature is fitted to 2, 5, 10 and 20 ways, as far as the sampler has them. The
            thresholds are those of the model's ways.
        episodes: Number of episodes.
        steps: Number of inner steps; the model's own by default.

    Returns:
        `rates` `[R]`, `shots` `[S]` and `thresholds` `[S, R]`, see `anil_tf.acceptance`; and
        `temperature`, a scale and a power, which make the probabilities honest, see
        `fit_temperature`. The argument `acceptance` of `export_bundle` takes it.

    Raises:
        ValueError: The sampler draws unequal shots, or the features of an image depend on those
            beside it.
    """
    ways, most = sampler.ways, sampler.shots
    if not isinstance(most, int):
        raise ValueError(f"The sampler must have a fixed number of shots. Received: shots={most}")

    embed = image_features(model)

    @tf.function(autograph=False, reduce_retracing=True)
    def resemble(
        support: tf.Tensor, labels: tf.Tensor, query: tf.Tensor, ways: int | tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        adapted = model.adapt_head(support[tf.newaxis], labels[tf.newaxis], ways, steps=steps)
        logits = adapted(query[tf.newaxis])[0]
        cosines = similarity(query, support, labels, ways)["similarity"]
        return tf.gather(cosines, tf.argmax(logits, axis=1), batch_dims=1), logits

    # Traced once, for any number of rows.
    rows = tf.TensorSpec([None, embed(sampler.episode(0)["query_x"]).shape[1]], tf.float32)
    number = tf.TensorSpec([], tf.int32) if model.head_init == "shared" else ways
    resemble.get_concrete_function(rows, tf.TensorSpec([None], tf.int32), rows, number)

    shots = [count for count in SHOTS if count <= most]
    usual = min(model.ways, ways)
    fewer = {usual, *(count for count in WAYS if count < ways)}
    shared = model.head_init == "shared"
    tried = sorted({*fewer, ways}) if shared else [ways]
    found: dict[int, list[np.ndarray]] = {count: [] for count in shots}
    answers: dict[tuple[int, int], list[np.ndarray]] = {}
    wanted: dict[tuple[int, int], list[np.ndarray]] = {}
    place = np.tile(np.arange(most), ways)  # of each support image within its class
    for index in track(range(episodes), "Measuring acceptance", unit="episode"):
        episode = sampler.episode(index)
        support, query = (embed(episode[name]) for name in ("support_x", "query_x"))
        labels, truth = episode["support_y"], episode["query_y"]
        for classes, count in itertools.product(tried, shots):
            learned, asked = (labels < classes) & (place < count), truth < classes
            resembled, logits = resemble(
                tf.constant(support[learned]),
                tf.constant(labels[learned]),
                tf.constant(query[asked]),
                tf.constant(classes) if shared else classes,
            )
            if classes == usual:
                found[count].append(resembled.numpy())
            answers.setdefault((classes, count), []).append(logits.numpy())
            wanted.setdefault((classes, count), []).append(truth[asked])
    rejected = 1 - np.array(RATES)
    thresholds = [np.quantile(np.concatenate(found[count]), rejected).tolist() for count in shots]
    temperature = fit_temperature(
        [np.concatenate(logits) for logits in answers.values()],
        [np.concatenate(labels) for labels in wanted.values()],
    )
    return {
        "rates": list(RATES),
        "shots": shots,
        "thresholds": thresholds,
        "temperature": list(temperature),
    }


def measure_run(directory: RunDirectory, classes: ClassImages | None) -> dict[str, Any] | None:
    """The thresholds of a finished run, from its validation classes.

    Args:
        directory: Files of the run.
        classes: Validation classes; None for a regression.

    Returns:
        The table of `measure_acceptance`; None for a run that cannot be exported, or whose
        validation classes are fewer than two or have fewer than two images.
    """
    recipe = directory.read_recipe()
    if classes is None or recipe.algorithm != "anil" or recipe.model.norm not in EXPORTED_NORMS:
        return None
    model = load_model(directory.model_file)
    sampler = _acceptance_sampler(recipe, classes)
    if sampler is None or not isinstance(model, ANIL):
        return None
    evaluation = recipe.evaluation
    episodes = min(EPISODES, evaluation.episodes)
    return measure_acceptance(model, sampler, episodes, evaluation.inner_steps)


def _acceptance_sampler(recipe: Recipe, classes: ClassImages) -> EpisodeSampler | None:
    scarcest = int(classes.counts.min())
    queries = int(np.clip(scarcest - SHOTS[-1], 1, QUERIES))
    ways = WAYS[-1] if recipe.model.head_init == "shared" else recipe.training.ways
    ways = min(ways, len(classes.names))
    shots = min(SHOTS[-1], scarcest - queries)
    if ways < 2 or shots < 1:
        return None
    sizes = {"ways": ways, "shots": shots, "queries": queries}
    protocol = recipe.evaluation.model_copy(update=sizes)
    sampler = make_sampler(recipe.data, classes, protocol, recipe.seed, "val")
    return sampler if isinstance(sampler, EpisodeSampler) else None


class Judged(NamedTuple):
    """The answers to one episode of N known and N unknown classes.

    Attributes:
        number: Number of the episode, which draws its images again.
        labels: Class of each query, integers `[Q]`; known ones are below N.
        initial: Logits of the queries before adaptation, `[Q, N]`.
        adapted: Logits of the queries after adaptation, `[Q, N]`.
        named: The class that the adapted head names, integers `[Q]`.
        resembled: Similarity of each query to that class, `[Q]`.
        limits: Threshold of that class at `ACCEPT`, `[Q]`; zero where none was measured.
        known: Whether each query is of a known class, `[Q]`.
    """

    number: int
    labels: np.ndarray
    initial: np.ndarray
    adapted: np.ndarray
    named: np.ndarray
    resembled: np.ndarray
    limits: np.ndarray
    known: np.ndarray


def judge_episodes(
    runtime: Runtime,
    sampler: EpisodeSampler,
    episodes: int,
    inner_steps: int | None = None,
    acceptance: dict[str, Any] | None = None,
) -> Iterator[Judged]:
    """Learns half of the classes of each episode and judges the queries of all of them.

    Args:
        runtime: A Keras model or a bundle, opened.
        sampler: Sampler that draws the episodes 0 to `episodes - 1`, of 2 N classes. The first N
            are known, the others unknown.
        episodes: Number of episodes.
        inner_steps: Number of steps of the inner loop; the runtime's own by default.
        acceptance: Table of thresholds; see `anil_tf.acceptance`. None if none was measured.
    """
    ways = sampler.ways // 2
    inner_steps = runtime.inner_steps if inner_steps is None else inner_steps
    for index in track(range(episodes), f"Evaluating ({runtime.name})", unit="episode"):
        episode = sampler.episode(index)
        learned = episode["support_y"] < ways
        episode |= {name: episode[name][learned] for name in ("support_x", "support_y")}
        initial, adapted = runtime.adapt_and_predict(episode, ways, inner_steps)
        similarities = runtime.similarities(episode, ways)
        named = adapted.argmax(axis=1)
        counts = np.bincount(episode["support_y"], minlength=ways)
        limits = find_thresholds(acceptance, counts, ACCEPT) if acceptance else np.zeros(ways)
        resembled = similarities[np.arange(len(named)), named]
        labels = episode["query_y"]
        known = labels < ways
        yield Judged(index, labels, initial, adapted, named, resembled, limits[named], known)


def evaluate_open_set(
    runtime: Runtime,
    sampler: EpisodeSampler,
    episodes: int,
    inner_steps: int | None = None,
    acceptance: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores the answers of `judge_episodes`, whose arguments it takes.

    Returns:
        `accuracy`, `ci95`, `ece`... of the queries of known classes and the protocol, as
        `anil_tf.training.evaluate.evaluate_episodes` returns them; and `open_set`, as
        `compare_known` returns it.
    """
    judged = judge_episodes(runtime, sampler, episodes, inner_steps, acceptance)
    return score_open_set(runtime, sampler, list(judged), inner_steps, acceptance is not None)


def score_open_set(
    runtime: Runtime,
    sampler: EpisodeSampler,
    judged: Sequence[Judged],
    inner_steps: int | None = None,
    has_thresholds: bool = True,
) -> dict[str, Any]:
    """Scores answers; see `evaluate_open_set`."""
    labels = [one.labels for one in judged]
    before, after = (
        mean_and_ci95(
            [
                np.mean(logits.argmax(axis=1)[one.known] == wanted[one.known])
                for one, wanted, logits in zip(judged, labels, answers, strict=True)
            ]
        )
        for answers in ([one.initial for one in judged], [one.adapted for one in judged])
    )
    known = np.concatenate([one.known for one in judged])
    wanted = np.concatenate(labels)
    right = np.concatenate([one.named for one in judged]) == wanted
    resembled = np.concatenate([one.resembled for one in judged])
    limits = np.concatenate([one.limits for one in judged]) if has_thresholds else None
    logits = np.concatenate([one.adapted for one in judged])
    return {
        "accuracy": after[0],
        "ci95": after[1],
        "accuracy_before_adaptation": before[0],
        "ci95_before_adaptation": before[1],
        "episodes": len(judged),
        "ways": sampler.ways // 2,
        "shots": sampler.shots,
        "queries": sampler.queries,
        "nil": False,
        "inner_steps": runtime.inner_steps if inner_steps is None else inner_steps,
        "inner_lr": runtime.inner_lr,
        "runtime": runtime.name,
        **calibration(logits[known] / runtime.temperature.of(logits.shape[1]), wanted[known]),
        "open_set": compare_known(resembled, limits, right, known),
    }


def describe_open_set(figures: dict[str, Any], protocol: str) -> str:
    """The results of `evaluate_open_set` in one sentence or two."""
    found, shots = figures["open_set"], figures["shots"]
    shots = shots if isinstance(shots, int) else "-".join(map(str, shots))
    text = (
        f"AUROC {found['auroc']:.4f} of known against unknown classes; where 95 % of known images "
        f"are accepted, so are {found['unknown_accepted_at_95']:.2%} of unknown ones, and "
        f"{found['accuracy_at_95']:.2%} of the accepted known ones are named rightly "
        f"({protocol}, {figures['ways']}-way {shots}-shot, norm={figures['norm']}, "
        f"{figures['runtime']})"
    )
    if "accept" not in found:
        return f"{text}. No thresholds were measured: `anil train --resume` does"
    return (
        f"{text}. The validation classes' thresholds for {found['accept']:.0%} accept "
        f"{found['known_accepted']:.2%} of known and {found['unknown_accepted']:.2%} of unknown "
        "images"
    )


def compare_known(
    resembled: np.ndarray, thresholds: np.ndarray | None, right: np.ndarray, known: np.ndarray
) -> dict[str, Any]:
    """How well a similarity separates the images of known classes from those of unknown ones.

    Args:
        resembled: Similarity of each query to the class that it is named, `[Q]`.
        thresholds: The threshold of that class at `ACCEPT`, `[Q]`; None where none was measured.
        right: Whether each query is named rightly, `[Q]`.
        known: Whether each query's class is known, `[Q]`.

    Returns:
        `auroc`; `unknown_accepted_at_95`, the share of unknown images above the similarity that
        95 % of the known ones reach, and `accuracy_at_95`, the accuracy of known ones above it.
        With thresholds also `accept`, and what they accept: `known_accepted`, `unknown_accepted`,
        `accuracy_among_accepted`.
    """
    line = np.quantile(resembled[known], 1 - ACCEPT)
    above = resembled >= line
    figures = {
        "auroc": auroc(resembled[known], resembled[~known]),
        "unknown_accepted_at_95": float(above[~known].mean()),
        "accuracy_at_95": float(right[known & above].mean()),
    }
    if thresholds is None:
        return figures
    accepted = resembled >= thresholds
    return figures | {
        "accept": ACCEPT,
        "known_accepted": float(accepted[known].mean()),
        "unknown_accepted": float(accepted[~known].mean()),
        "accuracy_among_accepted": float(right[known & accepted].mean()),
    }
