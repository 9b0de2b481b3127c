"""A trained Keras model as a `Runtime`: whole episodes, NumPy in and NumPy out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from anil_tf.closed_form import similarity
from anil_tf.episodic import EpisodicModel
from anil_tf.nil import predict_by_cosines
from anil_tf.saving import load_model


class KerasRuntime:
    """A `Runtime` on an `ANIL`, `MAML`, `BOIL`, `NIL` or `Pretrained` model.

    Unlike a bundle it has no functions for the parts of an episode: where the body adapts, no
    features are shared between tasks.

    Args:
        model: Model to run.

    Attributes:
        model: The model.
        inner_lr: Learning rate of the model's inner loop.
        inner_steps: Number of steps of the model's inner loop.
    """

    name = "keras"

    def __init__(self, model: EpisodicModel) -> None:
        self.model = model
        self.inner_lr = model.inner_lr.numpy().tolist()
        self.inner_steps = model.inner_steps
        self._predict = tf.function(self._predict_one)
        self._score = tf.function(self._score_one)
        self._resemble = tf.function(self._resemble_one)

    @classmethod
    def load(cls, path: Path) -> "KerasRuntime":
        """Opens a `model.keras`."""
        return cls(load_model(path))

    def adapt_and_predict(
        self, episode: Mapping[str, np.ndarray], ways: int, steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The queries' logits `[Q, N]` before and after adaptation; see `Runtime`."""
        before, after = self._predict(_inputs(episode), ways, steps)
        return before.numpy(), after.numpy()

    def cosine_scores(self, episode: Mapping[str, np.ndarray], ways: int) -> np.ndarray:
        """The queries' scores `[Q, N]` without head and inner loop; see `Runtime`."""
        return self._score(_inputs(episode), ways).numpy()

    def similarities(self, episode: Mapping[str, np.ndarray], ways: int) -> np.ndarray:
        """The queries' similarities `[Q, N]` to the classes of the support set; see `Runtime`."""
        return self._resemble(_inputs(episode), ways).numpy()

    def _predict_one(
        self, inputs: dict[str, tf.Tensor], ways: int, steps: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        before, after = self.model.adapt_and_predict(inputs, ways=ways, steps=steps)
        return before[0], after[0]

    def _score_one(self, inputs: dict[str, tf.Tensor], ways: int) -> tf.Tensor:
        return predict_by_cosines(self.model, inputs, ways)[0]

    def _resemble_one(self, inputs: dict[str, tf.Tensor], ways: int) -> tf.Tensor:
        support, query = self.model.embed(inputs["support_x"], inputs["query_x"])
        labels = tf.cast(inputs["support_y"][0], tf.int32)
        return similarity(query[0], support[0], labels, tf.constant(ways))["similarity"]


def _inputs(episode: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    """An episode as a batch of one task, without the labels of its queries."""
    names = ("support_x", "support_y", "query_x")
    return {name: tf.constant(episode[name][np.newaxis]) for name in names}
