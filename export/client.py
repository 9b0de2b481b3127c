"""A client of a bundle on TensorFlow Serving: learns new classes, and keeps what it learned itself.

The server holds the backbone; a head, a few kilobytes, is held by whoever asked for it (see
`head_store`). No replica of the server knows any caller, so any of them can answer any request.

    with FewShotClient("grpc://localhost:8500", "bundle/manifest.json") as client:
        head = client.learn(images, labels)
        probabilities = client.predict(new_images, head)
"""

import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from anil_tf.datasets.inputs import Images, check_integer_labels, list_images, read_pixels
from anil_tf.export.head import Head
from anil_tf.export.manifest import Manifest, parse_manifest
from anil_tf.export.runtime.base import BATCH, Adaptation
from anil_tf.export.serving.files import served_name
from anil_tf.export.serving.transport import Transport
from anil_tf.export.signatures import bind


class FewShotClient:
    """Learns classes, and names them, by a model on TensorFlow Serving. Safe to share by threads.

    Args:
        url: `grpc://host:port` or `grpcs://` (with TLS), `http://host:port` or `https://`. gRPC is
            the faster by far, its tensors being binary; REST needs neither TensorFlow nor gRPC.
            `grpc://dns:///name:port` reaches all replicas that a name stands for.
        manifest: Manifest of the bundle that the server has; or the path of its `manifest.json`, or
            of a copy of the bundle.
        model: The name that it is served under; that of the bundle's own `serving/models.config`
            by default.
        features_model: The name of a model with the signature `features` alone, whose requests the
            server batches; none by default.
        timeout: Seconds for a request.

    Raises:
        ImportError: What this protocol needs is not installed.
        FileNotFoundError: There is no manifest at the path.
        ValueError: The URL has another form, or the manifest is invalid.
    """

    def __init__(
        self,
        url: str,
        manifest: Manifest | str | Path,
        model: str | None = None,
        features_model: str | None = None,
        timeout: float = 30.0,
    ):
        if not isinstance(manifest, Manifest):
            manifest = parse_manifest(Path(manifest))
        self.manifest = manifest
        self.model = model or served_name(manifest.name)
        self.features_model = features_model or self.model
        self.signatures = manifest.signatures
        self.transport = connect(url, timeout)

    def __enter__(self) -> "FewShotClient":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.transport.close()

    def call(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Run a signature on array-likes by name; the outputs by name.

        Raises:
            ServingError: The server refused, or did not answer in time.
            ValueError: An input has the wrong dtype or shape; nothing was sent.
        """
        declared = self.signatures[signature]
        model = self.features_model if signature == "features" else self.model
        return self.transport.call(model, signature, bind(declared, inputs), declared)

    def features(self, images: Images) -> np.ndarray:
        """Features float32 `[B, D]` of any number of images.

        Args:
            images: Files or Pillow images of any size, or arrays of the model's shape; one of
                them, or any iterable of them.
        """
        images = list_images(images, self.manifest.image_shape)
        starts = range(0, len(images), BATCH)
        batches = [self._read(images[start : start + BATCH]) for start in starts]
        if not batches:
            raise ValueError("there must be at least one image. Received: none")
        return np.concatenate([self.call("features", image=batch)["features"] for batch in batches])

    def _read(self, images: Images) -> np.ndarray:
        shape, dtype = self.manifest.image_shape, self.manifest.image_dtype
        return read_pixels(list_images(images, shape), shape, dtype)

    def learn(
        self,
        images: Images,
        labels: np.ndarray | Sequence[int],
        names: Sequence[str] | None = None,
        steps: int | None = None,
        learning_rate: float | None = None,
    ) -> Head:
        """Fit a head to images of new classes.

        Args:
            images: M images, as `features` takes them.
            labels: Class of each image, `0..N-1`; an image with another label is left out.
            names: Names of the N classes; `"0"`, `"1"` and so on by default, up to the largest
                label.
            steps: Steps of the inner loop; the bundle's own by default.
            learning_rate: Its rate; the bundle's own by default.

        Returns:
            The head, for `predict`, a store, or `anil predict --head`.

        Raises:
            ServingError: The server refused, or did not answer in time.
            ValueError: The inputs do not fit the model, or a class has no image.

        Warns:
            UserWarning: The support loss rose.
        """
        labels = check_integer_labels(labels)
        if names is None:
            names = [str(label) for label in range(int(labels.max(initial=-1)) + 1)]
        if missing := [name for label, name in enumerate(names) if not (labels == label).any()]:
            raise ValueError(f"there must be at least one image of {missing[0]!r}. Received: none")
        start = self._initial_head(len(names))
        features = self.features(images)
        outputs = self.call(
            "adapt",
            features=features,
            labels=labels,
            **start,
            learning_rate=self.manifest.inner_lr if learning_rate is None else learning_rate,
            steps=self.manifest.inner_steps if steps is None else steps,
        )
        adapted = Adaptation.from_outputs(outputs)
        if adapted.doubt:
            warnings.warn(adapted.doubt, stacklevel=2)
        counted = (labels >= 0) & (labels < len(names))
        return Head(
            adapted.kernel,
            adapted.bias,
            tuple(names),
            features[counted],
            labels[counted].astype(np.int32),
            self.manifest.backbone_sha256,
        )

    def predict(self, images: Images, head: Head) -> np.ndarray:
        """Probabilities `[B, N]` of B images under a head, in the order of its names.

        Raises:
            ServingError: The server refused, or did not answer in time.
            ValueError: The head was made with another backbone, or the images do not fit the model.
        """
        head.check_backbone(self.manifest)
        features = self.features(images)
        answer = self.call("predict", features=features, kernel=head.kernel, bias=head.bias)
        return answer["probabilities"]

    def learn_and_predict(
        self,
        support_images: Images,
        support_labels: np.ndarray | Sequence[int],
        query_images: Images,
    ) -> np.ndarray:
        """Probabilities `[B, N]` of query images after learning from support images, in one call.

        For episodes whose head nobody keeps. The settings are the bundle's own. A `shared` head has
        one class more than the largest label, and an image with a negative label is left out.

        Raises:
            ServingError: The server refused, or did not answer in time.
            ValueError: The inputs do not fit the model.
        """
        answer = self.call(
            "adapt_and_predict",
            support_image=self._read(support_images),
            support_labels=check_integer_labels(support_labels),
            query_image=self._read(query_images),
        )
        return answer["probabilities"]

    def _initial_head(self, ways: int) -> dict[str, np.ndarray]:
        self.manifest.check_ways(ways)
        return self.call("initial_head", ways=ways)


# Imported when asked for: REST must not need TensorFlow.
TRANSPORTS = {
    "grpc": (
        "anil_tf.export.serving.grpc_transport:GrpcTransport",
        "pip install tensorflow-serving-api",
    ),
    "http": ("anil_tf.export.serving.rest_transport:RestTransport", "pip install urllib3"),
}


def connect(url: str, timeout: float) -> Transport:
    """Connect to a server by a URL; see `FewShotClient`."""
    parts = urlsplit(url)
    secure = parts.scheme in ("grpcs", "https")
    protocol = parts.scheme.removesuffix("s")
    if protocol not in TRANSPORTS or not url.partition("://")[2]:
        raise ValueError(
            f"url must be grpc://host:port, grpcs://, http:// or https://. Received: {url!r}"
        )
    target, install = TRANSPORTS[protocol]
    module, name = target.split(":")
    try:
        transport = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"A client of {protocol}:// needs: {install}") from error
    if protocol == "http":
        return transport(url, timeout)
    return transport(url.partition("://")[2], timeout, secure)
