"""What `norm` means: from which images batch normalisation takes its statistics.

Each policy computes the features of a task's support and query images:

- `BatchStatistics` (`norm="batch"`): statistics of the whole meta-batch in training, moving
  averages afterwards. Inductive.
- `FrozenStatistics` (`norm="frozen"`): moving averages, in training too. For a backbone that was
  trained before. Inductive.
- `SupportStatistics` (`norm="support"`): statistics of the task's support set, for its queries
  too. Inductive (MetaBN in Bronskill et al. 2020).
- `TaskStatistics` (`norm="task"`): statistics of the images at hand, support and query apart.
  Transductive: the prediction for a query depends on the other queries.
"""

import inspect
from typing import Literal

import keras
import tensorflow as tf

from anil_tf.inner_loop import Tensors
from anil_tf.normalization import keeping_statistics
from anil_tf.tasks import FLOATS, map_tasks, sizes

Norm = Literal["batch", "frozen", "support", "task"]
# With these the features of an image do not depend on those beside it once a model is trained.
EXPORTED_NORMS: tuple[Norm, ...] = ("batch", "frozen")


class Embedding:
    """Features of images under one policy of batch normalisation; see the module's docstring.

    Args:
        backbone: A Keras model from images `[B, ...]` to features `[B, D]`.
    """

    is_transductive = False  # whether queries are normalised by one another
    spans_replicas = False  # whether the statistics are those of the whole meta-batch

    def __init__(self, backbone: keras.Model) -> None:
        self.backbone = backbone
        # Unlike a plain call, a stateless call passes `training` to a model that does not take it.
        self._takes_training = "training" in inspect.signature(backbone.call).parameters

    def run(
        self,
        images: tf.Tensor,
        weights: Tensors | None = None,
        statistics: Tensors | None = None,
    ) -> tuple[tf.Tensor, Tensors]:
        """Runs the backbone on one set of images without changing any variable.

        Args:
            images: Images `[B, ...]` of one set: a task's support set or its queries.
            weights: Weights to use in place of the backbone's trainable variables.
            statistics: Statistics returned by the run on the support set. Policies that normalise
                queries by themselves ignore them.

        Returns:
            Features `[B, D]` in float32, and the statistics for the task's queries.
        """
        raise NotImplementedError

    def embed_images(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features `[B, D]` in float32 of one set of images `[B, ...]`."""
        del training
        return self.run(images)[0]

    def embed_sets(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features `[T, B, D]` of T sets of images `[T, B, ...]`, each a set of its own."""
        return map_tasks(lambda one_set: self.embed_images(one_set, training), images)

    def embed_task(
        self, support: tf.Tensor, query: tf.Tensor, weights: Tensors | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Features of one task, outside training.

        Args:
            support: Support images `[M, ...]`.
            query: Query images `[Q, ...]`.
            weights: Weights to use in place of the backbone's trainable variables.

        Returns:
            Features of the support `[M, D]` and of the queries `[Q, D]`.
        """
        features, statistics = self.run(support, weights)
        return features, self.run(query, weights, statistics)[0]

    def embed(
        self, support: tf.Tensor, query: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Features of T tasks.

        Args:
            support: Support images `[T, M, ...]`.
            query: Query images `[T, Q, ...]`.
            training: Whether the features are used to train the backbone.

        Returns:
            Features of the support `[T, M, D]` and of the queries `[T, Q, D]`.
        """
        del training
        features, queries = map_tasks(self.embed_task, support, query, returns=(FLOATS, FLOATS))
        return features, queries

    def _run(
        self,
        images: tf.Tensor,
        weights: Tensors | None,
        statistics: Tensors | None,
        training: bool,
    ) -> tuple[tf.Tensor, Tensors]:
        variables = self.backbone.trainable_variables if weights is None else weights
        state = self.backbone.non_trainable_variables if statistics is None else statistics
        features, after = self.backbone.stateless_call(
            [tf.convert_to_tensor(value) for value in variables],
            [tf.convert_to_tensor(value) for value in state],
            images,
            **({"training": training} if self._takes_training else {}),
        )
        return tf.cast(features, tf.float32), after


class FrozenStatistics(Embedding):
    """Moving averages, in training too: the backbone always runs in inference mode."""

    def run(
        self,
        images: tf.Tensor,
        weights: Tensors | None = None,
        statistics: Tensors | None = None,
    ) -> tuple[tf.Tensor, Tensors]:
        """Normalises by the moving averages; see `Embedding.run`."""
        return self._run(images, weights, statistics, training=False)

    def embed_images(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features `[B, D]` in float32 of images `[B, ...]`."""
        del training
        return tf.cast(self.backbone(images, training=False), tf.float32)

    def embed_sets(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features `[T, B, D]` in one pass over all images `[T, B, ...]`."""
        features = self.embed_images(tf.reshape(images, [-1, *images.shape[2:]]), training)
        return tf.reshape(features, [*sizes(images, 2), features.shape[-1]])

    def embed(
        self, support: tf.Tensor, query: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Features of T tasks in one pass over every image; see `Embedding.embed`."""
        features = self.embed_sets(tf.concat([support, query], axis=1), training)
        return tf.split(features, [sizes(support, 2)[1], sizes(query, 2)[1]], axis=1)


class BatchStatistics(FrozenStatistics):
    """Statistics of the whole meta-batch in training, moving averages afterwards."""

    spans_replicas = True

    def embed_images(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features `[B, D]` in float32; in training the moving averages are updated."""
        return tf.cast(self.backbone(images, training=training), tf.float32)


class SupportStatistics(Embedding):
    """Statistics of the task's support set, for its queries too."""

    def run(
        self,
        images: tf.Tensor,
        weights: Tensors | None = None,
        statistics: Tensors | None = None,
    ) -> tuple[tf.Tensor, Tensors]:
        """Normalises by `statistics`, or by the images' own where there are none."""
        if statistics is not None:
            return self._run(images, weights, statistics, training=False)
        with keeping_statistics(self.backbone):  # costs the fused kernel, so here only
            return self._run(images, weights, None, training=True)


class TaskStatistics(Embedding):
    """Statistics of the images at hand: support and queries each by their own."""

    is_transductive = True

    def run(
        self,
        images: tf.Tensor,
        weights: Tensors | None = None,
        statistics: Tensors | None = None,
    ) -> tuple[tf.Tensor, Tensors]:
        """Normalises by the images' own statistics; see `Embedding.run`."""
        del statistics
        return self._run(images, weights, None, training=True)


POLICIES: dict[str, type[Embedding]] = {
    "batch": BatchStatistics,
    "frozen": FrozenStatistics,
    "support": SupportStatistics,
    "task": TaskStatistics,
}
