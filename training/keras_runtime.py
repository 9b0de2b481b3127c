"""A trained Keras model as a `Runtime`: whole episodes, NumPy in and NumPy out."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from anil_tf.acceptance import UNDIVIDED, Temperature
from anil_tf.closed_form import similarity
from anil_tf.embedding import EXPORTED_NORMS
from anil_tf.episodic import EpisodicModel
from anil_tf.export.runtime.base import BATCH
from anil_tf.model import ANIL
from anil_tf.nil import predict_by_cosines
from anil_tf.saving import load_model

Compute = Callable[[np.ndarray], np.ndarray]


class KerasRuntime:
    """A `Runtime` on an `ANIL`, `MAML`, `BOIL`, `NIL` or `Pretrained` model.

    Unlike a bundle it has no functions for the parts of an episode: where the body adapts, no
    features are shared between tasks.

    Args:
        model: Model to run.
        temperature: Divisor of the logits that makes probabilities of them.

    Attributes:
        model: The model.
        inner_lr: Learning rate of the model's inner loop.
        inner_steps: Number of steps of the model's inner loop.
        temperature: Divisor of the logits that makes probabilities of them.
    """

    name = "keras"

    def __init__(self, model: EpisodicModel, temperature: Temperature = UNDIVIDED) -> None:
        self.model = model
        self.temperature = temperature
        self.inner_lr = model.inner_lr.numpy().tolist()
        self.inner_steps = model.inner_steps
        shares = isinstance(model, ANIL) and model.norm in EXPORTED_NORMS
        self._features = image_features(model) if shares else None
        # Episodes of unequal shots have supports of many sizes.
        self._predict = tf.function(self._predict_one, autograph=False, reduce_retracing=True)
        self._score = tf.function(self._score_one, autograph=False, reduce_retracing=True)
        self._resemble = tf.function(self._resemble_one, autograph=False, reduce_retracing=True)

    @classmethod
    def load(cls, path: Path, temperature: Temperature = UNDIVIDED) -> "KerasRuntime":
        """Opens a `model.keras`."""
        return cls(load_model(path), temperature)

    def adapt_and_predict(
        self, episode: Mapping[str, np.ndarray], ways: int, steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The queries' logits `[Q, N]` before and after adaptation; see `Runtime`."""
        before, after = self._predict(_inputs(episode, self._features), ways, steps)
        return before.numpy(), after.numpy()

    def cosine_scores(self, episode: Mapping[str, np.ndarray], ways: int) -> np.ndarray:
        """The queries' scores `[Q, N]` without head and inner loop; see `Runtime`."""
        return self._score(_inputs(episode), ways).numpy()

    def similarities(self, episode: Mapping[str, np.ndarray], ways: int) -> np.ndarray:
        """The queries' similarities `[Q, N]` to the classes of the support set; see `Runtime`."""
        return self._resemble(_inputs(episode, self._features), ways).numpy()

    def _predict_one(
        self, inputs: dict[str, tf.Tensor], ways: int, steps: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        model = self.model
        if self._features is None:
            before, after = model.adapt_and_predict(inputs, ways=ways, steps=steps)
        else:
            support, query, labels = self._embed(inputs)
            before = model.head(query, ways=ways)
            after = model.adapt_head(support, labels, ways, steps=steps)(query)
        return before[0], after[0]

    def _score_one(self, inputs: dict[str, tf.Tensor], ways: int) -> tf.Tensor:
        return predict_by_cosines(self.model, inputs, ways)[0]

    def _resemble_one(self, inputs: dict[str, tf.Tensor], ways: int) -> tf.Tensor:
        support, query, labels = (rows[0] for rows in self._embed(inputs))
        labels = tf.cast(labels, tf.int32)
        return similarity(query, support, labels, tf.constant(ways))["similarity"]

    def _embed(self, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Features of the support and query images, which inputs may hold already; labels."""
        support, query = inputs["support_x"], inputs["query_x"]
        if self._features is None:
            support, query = self.model.embed(support, query)
        return support, query, self.model.support_labels(inputs)


def _inputs(
    episode: Mapping[str, np.ndarray], features: Compute | None = None
) -> dict[str, tf.Tensor]:
    """An episode as a batch of one task, without the labels of its queries."""
    images = {name: episode[name] for name in ("support_x", "query_x")}
    if features:
        images = {name: features(rows) for name, rows in images.items()}
    inputs = {**images, "support_y": episode["support_y"]}
    return {name: tf.constant(values[np.newaxis]) for name, values in inputs.items()}


def remembering(compute: Compute) -> Compute:
    """A function that computes the features of each image once.

    Episodes share images, and the features of an image do not depend on those beside it: 600
    episodes of 20 classes take a fortieth of the time.

    Args:
        compute: Function from images `[n, ...]` to features `[n, D]`.
    """
    known: dict[bytes, np.ndarray] = {}

    def features(image: np.ndarray) -> np.ndarray:
        names = [hashlib.blake2b(np.ascontiguousarray(one).data).digest() for one in image]
        rows = {name: row for row, name in enumerate(names) if name not in known}
        if rows:
            known.update(zip(rows, compute(image[list(rows.values())]), strict=True))
        return np.stack([known[name] for name in names])

    return features


def image_features(model: EpisodicModel) -> Compute:
    """A function from images to a model's features, which computes those of each image once.

    Raises:
        ValueError: The features of an image depend on those beside it: `model.norm` is none of
            `EXPORTED_NORMS`.
    """
    if model.norm not in EXPORTED_NORMS:
        raise ValueError(
            f"The features of an image must not depend on those beside it: norm must be one of "
            f"{EXPORTED_NORMS}. Received: norm={model.norm!r}"
        )
    embed = tf.function(model.embedding.embed_images, autograph=False, reduce_retracing=True)

    def compute(image: np.ndarray) -> np.ndarray:
        starts = range(0, len(image), BATCH)
        batches = [embed(tf.constant(image[start : start + BATCH])) for start in starts]
        return np.concatenate([features.numpy() for features in batches])

    return remembering(compute)
