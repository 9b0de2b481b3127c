"""Runs a bundle: one interface for all formats."""

import abc
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from anil_tf.acceptance import Temperature
from anil_tf.export.manifest import Draft, open_manifest
from anil_tf.export.signatures import LIMITS, Signature, bind, difference

BATCH = 32  # images per call of the backbone, to bound the memory


class Adaptation(NamedTuple):
    """A head fitted to a support set.

    `kernel` is `[D, N]`, `bias` `[N]`; the losses are those of the support set before and after,
    the mean over classes of each class's mean cross-entropy; `rows_used` counts the support rows
    that are not padding.
    """

    kernel: np.ndarray
    bias: np.ndarray
    initial_loss: float
    final_loss: float
    rows_used: int

    @classmethod
    def from_outputs(cls, outputs: dict[str, np.ndarray]) -> "Adaptation":
        """Makes it of the outputs of the signature `adapt`, by name."""
        return cls(
            outputs["adapted_kernel"],
            outputs["adapted_bias"],
            float(outputs["initial_loss"]),
            float(outputs["final_loss"]),
            int(outputs["rows_used"]),
        )

    @property
    def doubt(self) -> str:
        """Why the head may be wrong, in one line; empty if the support loss did not rise."""
        if self.final_loss <= self.initial_loss:
            return ""
        return (
            f"The support loss rose from {self.initial_loss:.4f} to {self.final_loss:.4f}: the "
            "head may classify wrongly. Lower the learning rate"
        )


class Runtime(Protocol):
    """What runs whole episodes: a bundle in any format, or a Keras model. NumPy in, NumPy out.

    An episode has `support_x` `[M, ...]`, `support_y` `[M]` and `query_x` `[Q, ...]`, as
    `anil_tf.episodes` draws them.

    Attributes:
        name: Name of the runtime.
        inner_lr: Learning rate of the inner loop.
        inner_steps: Default number of inner steps.
        temperature: Divisor of the logits that makes probabilities of them.
    """

    name: str
    inner_lr: float
    inner_steps: int
    temperature: Temperature

    def adapt_and_predict(
        self, episode: Mapping[str, np.ndarray], ways: int, steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The queries' logits `[Q, ways]` before and after adaptation to the support set."""

    def cosine_scores(self, episode: Mapping[str, np.ndarray], ways: int) -> np.ndarray:
        """The queries' scores `[Q, ways]` without head and inner loop; see `anil_tf.nil`."""

    def similarities(self, episode: Mapping[str, np.ndarray], ways: int) -> np.ndarray:
        """The queries' similarities `[Q, ways]` to the classes of the support set."""


class BundleRuntime(abc.ABC):
    """A `Runtime` on a bundle's signatures. A format only has to run one signature by name.

    Args:
        bundle: Folder of the bundle, whose files are checked against its manifest.

    Attributes:
        name: Name of the runtime, as in `RUNTIMES`.
        files: Files and folders of a bundle that the runtime reads.
        precision: Precision of the backbone: `"float32"`, or `"int8"` where its convolutions are
            quantized.
        room: Number of classes and of rows that its files have space for; None for any.
        arena_bytes: Working memory of each function, where it is fixed.
        manifest: Manifest of the bundle.
        signatures: The signatures that the runtime can run.

    Raises:
        FileNotFoundError: The folder is not a bundle.
        ValueError: The bundle is damaged, or was exported without this format.
    """

    name: str
    files: tuple[str, ...]
    precision = "float32"
    room: tuple[int, int] | None = None

    def __init__(self, bundle: str | Path | Draft) -> None:
        self.bundle, self.manifest = open_manifest(bundle)
        if missing := [file for file in self.files if not self.manifest.size(file)]:
            raise ValueError(
                f"{self.bundle} was exported without {self.name}: it has no {missing[0]}"
            )
        self.inner_lr = self.manifest.inner_lr
        self.inner_steps = self.manifest.inner_steps
        self.temperature = self.manifest.temperature
        self.signatures = self.manifest.signatures
        self.arena_bytes: dict[str, int] = {}

    def check_signature(self, name: str, found: Signature) -> None:
        """Reject a graph that does not match the manifest. Each format calls this when it opens.

        Raises:
            ValueError: A name, a dtype or a fixed size differs.
        """
        if unlike := difference(self.signatures[name], found):
            raise ValueError(
                f"{self.bundle}: the manifest does not fit the graph of {name}: {unlike}"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that `features` takes.

        Raises:
            ValueError: The bundle takes other data than images.
        """
        shape = self.manifest.image_shape
        if self.manifest.image_dtype != "uint8" or len(shape) != 3:
            raise ValueError(
                f"{self.bundle} takes {self.manifest.image_dtype} {list(shape)} data, not images"
            )
        height, width, channels = shape
        return height, width, channels

    @abc.abstractmethod
    def _run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name of a signature run on arrays of the declared dtypes."""

    def run(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Run a signature on array-likes by name; the outputs by name.

        Raises:
            ValueError: An input has the wrong dtype or shape.
        """
        arrays = bind(self.signatures[signature], inputs)
        for name, (least, most) in LIMITS.items():
            if name in arrays and not least <= int(arrays[name]) <= most:
                raise ValueError(f"{name} must lie in {least}..{most}. Received: {arrays[name]}")
        return self._run(signature, arrays)

    def milliseconds(self, signature: str, calls: int = 20, **inputs: Any) -> float:
        """Median time of a call of a signature, after one that does not count."""
        arrays = bind(self.signatures[signature], inputs)
        times = []
        for _ in range(calls + 1):
            start = time.perf_counter()
            self._run(signature, arrays)
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times[1:])

    def features(self, image: np.ndarray) -> np.ndarray:
        """Features float32 `[B, D]` of images `[B, H, W, C]`."""
        return self.run("features", image=image)["features"]

    def initial_head(self, ways: int) -> tuple[np.ndarray, np.ndarray]:
        """The head before adaptation: kernel `[D, ways]`, bias `[ways]`.

        Raises:
            ValueError: `ways` is below 2, or more than a `per_class` head was trained with.
        """
        self.manifest.check_ways(ways)
        head = self.run("initial_head", ways=ways)
        return head["kernel"], head["bias"]

    def adapt(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        kernel: np.ndarray,
        bias: np.ndarray,
        learning_rate: float,
        steps: int,
    ) -> Adaptation:
        """Fit a head to features `[M, D]`, labels `[M]`; a label outside `0..N-1` is padding.

        Raises:
            ValueError: Shapes do not agree, or `steps` is negative.
        """
        if steps < 0:
            raise ValueError(f"steps must not be negative. Received: steps={steps}")
        adapted = self.run(
            "adapt",
            features=features,
            labels=labels,
            kernel=kernel,
            bias=bias,
            learning_rate=learning_rate,
            steps=steps,
        )
        return Adaptation.from_outputs(adapted)

    def predict(
        self, features: np.ndarray, kernel: np.ndarray, bias: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits and probabilities `[B, N]` of features `[B, D]`."""
        predicted = self.run("predict", features=features, kernel=kernel, bias=bias)
        return predicted["logits"], predicted["probabilities"]

    def similarity(
        self,
        features: np.ndarray,
        support_features: np.ndarray,
        support_labels: np.ndarray,
        ways: int,
    ) -> np.ndarray:
        """Cosines `[B, ways]` of features `[B, D]` to the mean of each class's unit-length rows.

        Args:
            features: Features of the images to judge.
            support_features: Rows `[M, D]` that the classes were learned from.
            support_labels: Their classes, integers `[M]`; those outside `0..ways-1` are padding.
            ways: Number of classes. One without a row has the similarity -1.

        Raises:
            ValueError: The bundle is of a version that had no such function, or shapes do not
                agree.
        """
        if "similarity" not in self.signatures:
            raise ValueError(
                f"{self.bundle} was exported by a version without the function similarity: it "
                "cannot say that an image is none of the classes. Export the run again"
            )
        return self.run(
            "similarity",
            features=features,
            support_features=support_features,
            support_labels=support_labels,
            ways=ways,
        )["similarity"]

    def adapt_and_predict(
        self, episode: Mapping[str, np.ndarray], ways: int, steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The queries' logits `[Q, ways]` before and after adaptation; see `Runtime`."""
        kernel, bias = self.initial_head(ways)
        support, query = self.features(episode["support_x"]), self.features(episode["query_x"])
        adapted = self.adapt(support, episode["support_y"], kernel, bias, self.inner_lr, steps)
        before, _ = self.predict(query, kernel, bias)
        after, _ = self.predict(query, adapted.kernel, adapted.bias)
        return before, after

    def cosine_scores(self, episode: Mapping[str, np.ndarray], ways: int) -> np.ndarray:
        """The queries' scores `[Q, ways]` without head and inner loop; see `Runtime`."""
        from anil_tf.nil import cosine_scores  # needs TensorFlow, which a runtime may not

        support, query = self.features(episode["support_x"]), self.features(episode["query_x"])
        return cosine_scores(support, episode["support_y"], query, ways).numpy()

    def similarities(self, episode: Mapping[str, np.ndarray], ways: int) -> np.ndarray:
        """The queries' similarities `[Q, ways]` to the classes of the support set."""
        support, query = self.features(episode["support_x"]), self.features(episode["query_x"])
        return self.similarity(query, support, episode["support_y"], ways)
