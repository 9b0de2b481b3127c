"""Accuracy over episodes of unseen classes, on any runtime."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anil_tf.episodes import EpisodeSampler, SinusoidSampler
from anil_tf.export.runtime import Runtime, open_bundle
from anil_tf.metrics import mean_and_ci95
from anil_tf.support.progress import track
from anil_tf.training.keras_runtime import remembering
from anil_tf.training.recipe import DataTable, EvaluationTable, read_recipe
from anil_tf.training.run import RunDirectory
from anil_tf.training.samplers import make_sampler
from anil_tf.training.scoring.calibration import calibration
from anil_tf.training.scoring.open_set import describe_open_set, evaluate_open_set


def evaluate_episodes(
    runtime: Runtime,
    sampler: EpisodeSampler | SinusoidSampler,
    episodes: int,
    *,
    inner_steps: int | None = None,
    nil: bool = False,
) -> dict[str, Any]:
    """Adapts to each episode's support set and scores its queries, before and after.

    Args:
        runtime: A Keras model or a bundle, opened.
        sampler: Sampler that draws the episodes 0 to `episodes - 1`.
        episodes: Number of episodes, at least two.
        inner_steps: Number of steps of the inner loop; the runtime's own by default.
        nil: Whether to leave out head and inner loop: a query is classified by its cosines to the
            support set, and the scores before and after adaptation are the same.

    Returns:
        `accuracy`, `ci95`, `accuracy_before_adaptation`, `ci95_before_adaptation` in 0..1, for a
        regression `mse`... in their place; and the protocol: `episodes`, `ways`, `shots`,
        `queries`, `nil`, `inner_steps`, `inner_lr`, `runtime`. Where the sampler draws unequal
        shots also `accuracy_by_shots`, by the number of support images that a class had. A
        classification by the head also has `ece` and `negative_log_likelihood`; see
        `anil_tf.training.scoring.calibration`.

    Raises:
        ValueError: NIL was asked for a regression, which has no classes.
    """
    score: Callable[[np.ndarray, np.ndarray], float]
    if isinstance(sampler, SinusoidSampler):
        if nil:
            raise ValueError("NIL classifies by the labels of classes: a regression has none")
        ways, score, metric = 1, _squared_error, "mse"
    else:
        ways, score, metric = sampler.ways, _accuracy, "accuracy"
    inner_steps = runtime.inner_steps if inner_steps is None else inner_steps
    before, after = np.empty(episodes), np.empty(episodes)
    by_shots: dict[int, list[float]] = {}
    logits, labels = [], []
    for index in track(range(episodes), f"Evaluating ({runtime.name})", unit="episode"):
        episode = sampler.episode(index)
        if nil:
            initial = adapted = runtime.cosine_scores(episode, ways)
        else:
            initial, adapted = runtime.adapt_and_predict(episode, ways, inner_steps)
        before[index] = score(initial, episode["query_y"])
        after[index] = score(adapted, episode["query_y"])
        logits.append(adapted)
        labels.append(episode["query_y"])
        if not isinstance(sampler.shots, int):
            for shots, accuracy in _accuracy_of_classes(adapted, episode):
                by_shots.setdefault(shots, []).append(accuracy)

    if metric == "accuracy" and not nil:
        divided = np.concatenate(logits) / runtime.temperature.of(ways)
        honesty = calibration(divided, np.concatenate(labels))
    else:  # a cosine is no probability
        honesty = {}
    value, interval = mean_and_ci95(after)
    initial_value, initial_interval = mean_and_ci95(before)
    return (
        {
            metric: value,
            "ci95": interval,
            f"{metric}_before_adaptation": initial_value,
            "ci95_before_adaptation": initial_interval,
            "episodes": episodes,
            "ways": ways,
            "shots": sampler.shots,
            "queries": sampler.queries,
            "nil": nil,
            "inner_steps": 0 if nil else inner_steps,
            "inner_lr": runtime.inner_lr,
            "runtime": runtime.name,
        }
        | honesty
        | ({"accuracy_by_shots": _means(by_shots)} if by_shots else {})
    )


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def _accuracy_of_classes(
    logits: np.ndarray, episode: dict[str, np.ndarray]
) -> Iterator[tuple[int, float]]:
    """The number of support images of each class of an episode, and its queries' accuracy."""
    right = logits.argmax(axis=-1) == episode["query_y"]
    for label, shots in enumerate(np.bincount(episode["support_y"])):
        yield int(shots), float(right[episode["query_y"] == label].mean())


def _means(by_shots: dict[int, list[float]]) -> dict[str, float]:
    return {str(shots): float(np.mean(by_shots[shots])) for shots in sorted(by_shots)}


def _squared_error(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean(np.square(outputs - targets)))


def describe(figures: dict[str, Any]) -> str:
    """The results in one sentence."""
    protocol = f"{figures['episodes']} episodes of the {figures['split']} split"
    if "open_set" in figures:
        return describe_open_set(figures, protocol)
    if "mse" in figures:
        return (
            f"mean squared error {figures['mse']:.4f} +- {figures['ci95']:.4f} after "
            f"{figures['inner_steps']} steps, {figures['mse_before_adaptation']:.4f} before "
            f"({protocol}, {figures['shots']} shots)"
        )
    how = (
        "without head and inner loop (NIL)"
        if figures["nil"]
        else f"after {figures['inner_steps']} step{'s' * (figures['inner_steps'] != 1)}, "
        f"{figures['accuracy_before_adaptation']:.2%} before"
    )
    shots, unequal = figures["shots"], ""
    if by_shots := figures.get("accuracy_by_shots"):
        shots = "-".join(map(str, shots))
        lowest = min(by_shots, key=by_shots.__getitem__)
        images = f"{lowest} support image{'s' * (lowest != '1')}"
        unequal = f"; lowest {by_shots[lowest]:.2%}, of classes with {images}"
    return (
        f"accuracy {figures['accuracy']:.2%} +- {figures['ci95']:.2%} {how}{unequal} "
        f"({protocol}, {figures['ways']}-way {shots}-shot, norm={figures['norm']}, "
        f"{figures['runtime']})"
    )


def evaluate_path(
    path: Path,
    data_dir: Path | None = None,
    *,
    overrides: dict[str, Any] | None = None,
    split: str = "test",
    seed: int | None = None,
    runtime: str | None = None,
    nil: bool = False,
    open_set: bool = False,
) -> dict[str, Any]:
    """Evaluates a run directory or an exported bundle.

    Args:
        path: A run directory or a bundle.
        data_dir: Folder of the data; the default folder of TFDS by default.
        overrides: Values of the recipe's evaluation table to replace; `shots` may be a pair, the
            least and the most support images per class, drawn anew for each class.
        split: Split whose classes the episodes are drawn from.
        seed: Seed for drawing the episodes; the recipe's by default.
        runtime: `"keras"` for a run; a name of `export.runtime.RUNTIMES` for a bundle.
        nil: Whether to leave out head and inner loop; see `evaluate_episodes`.
        open_set: Whether each episode also has queries of as many unknown classes; see
            `evaluate_open_set`.

    Returns:
        The results of `evaluate_episodes` or `evaluate_open_set`, with `norm`, `split` and `seed`.
        A run keeps them in its `metrics.json`, by protocol; see
        `anil_tf.training.run.RunDirectory.record`.

    Raises:
        FileNotFoundError: The path is neither a run nor a bundle.
        ValueError: The runtime or the data does not fit.
    """
    opened = _open(path, runtime)
    overrides = dict(overrides or {})
    unequal = overrides.pop("shots") if isinstance(overrides.get("shots"), tuple) else None
    protocol = EvaluationTable(**{**opened.evaluation, **overrides})
    seed = opened.seed if seed is None else seed
    classes = opened.data.load_split(split, data_dir)
    drawn = protocol.model_copy(update={"ways": 2 * protocol.ways}) if open_set else protocol
    sampler = make_sampler(opened.data, classes, drawn, seed, split, shots=unequal)
    episodes, steps = protocol.episodes, protocol.inner_steps
    if open_set:
        if nil or isinstance(sampler, SinusoidSampler):
            raise ValueError("open_set judges the classes that a head names: no NIL, no regression")
        figures = evaluate_open_set(opened.runtime, sampler, episodes, steps, opened.acceptance)
    else:
        figures = evaluate_episodes(opened.runtime, sampler, episodes, inner_steps=steps, nil=nil)
    figures |= {"norm": opened.norm, "split": split, "seed": seed}
    if opened.runtime.name == "keras":
        RunDirectory(path).record(figures)
    return figures


class _Opened(NamedTuple):
    """A run or a bundle that is ready for evaluation, with its recipe's protocol."""

    runtime: Runtime
    data: DataTable
    evaluation: dict[str, Any]
    norm: str
    seed: int
    acceptance: dict[str, Any] | None


def _open(path: Path, runtime: str | None) -> _Opened:
    if (path / "manifest.json").is_file():
        bundle = open_bundle(path, runtime or "onnx")
        bundle.features = remembering(bundle.features)  # type: ignore[method-assign, assignment]
        recorded = bundle.manifest
        if not recorded.data:
            raise ValueError(
                f"{path} does not say what data it is for. To evaluate it on a folder of classes, "
                "export it with data={'source': 'folder', 'image_shape': [height, width, channels]}"
            )
        known = recorded.data.keys() & DataTable.model_fields  # others are for the model card
        data = DataTable(**{key: recorded.data[key] for key in known})
        table = recorded.acceptance.model_dump() if recorded.acceptance else None
        seed = recorded.seed or 0
        return _Opened(bundle, data, recorded.evaluation, str(recorded.norm), seed, table)
    if not (path / "model.keras").is_file():
        raise FileNotFoundError(
            f"{path} is neither a finished run (model.keras) nor a bundle (manifest.json)"
        )
    if runtime not in (None, "keras"):
        raise ValueError(
            f"{path} is a run; --runtime {runtime} needs a bundle. Make one: anil export {path}"
        )
    recipe = read_recipe(path / "recipe.toml")
    directory = RunDirectory(path)
    model, table = directory.open_runtime(), directory.read_metrics().get("acceptance")
    evaluation = recipe.evaluation.model_dump()
    return _Opened(model, recipe.data, evaluation, recipe.model.norm, recipe.seed, table)
