"""A client of a bundle on TensorFlow Serving, which learns new classes and keeps the heads.

The server holds the backbone. A head, a few kilobytes, stays with the client (see `head_store`).
The server keeps no state, so any replica can serve any request.
"""

import importlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from anil_tf.acceptance import add_none
from anil_tf.datasets.inputs import (
    Images,
    check_integer_labels,
    class_names,
    encode_pictures,
    list_images,
    read_pixels,
)
from anil_tf.datasets.pictures import order_names
from anil_tf.export.head import Head
from anil_tf.export.manifest import Manifest, parse_manifest
from anil_tf.export.runtime.base import BATCH, Adaptation
from anil_tf.export.serving.files import served_name
from anil_tf.export.serving.transport import Transport, Version
from anil_tf.export.signatures import bind


class FewShotClient:
    """Learns and predicts classes with a model on TensorFlow Serving. Threads may share it.

    Args:
        url: `grpc://host:port` or `grpcs://` (with TLS), `http://host:port` or `https://`. gRPC is
            faster, because its tensors are binary; REST needs neither TensorFlow nor gRPC, and
            sends pictures as PNG files.
            `grpc://dns:///name:port` reaches all replicas behind a name.
        manifest: Manifest of the bundle that the server has; or the path of its `manifest.json`, or
            of a copy of the bundle.
        model: Name of the served model; by default that in the bundle's `serving/models.config`.
        features_model: Name of a model with only the signature `features`, whose requests the
            server batches; none by default.
        timeout: Timeout of a request in seconds.
        version: Version of the model, a number or a label of the server's configuration; the latest
            by default.
        headers: Headers of every request, such as `{"authorization": "Bearer ..."}`; over gRPC they
            are its metadata.
        ca_file: File of the certificates to trust (PEM), for a server whose certificate is of your
            own authority. Needs `grpcs://` or `https://`.

    Raises:
        ImportError: A package that this protocol needs is not installed.
        FileNotFoundError: There is no manifest at the path, or no `ca_file`.
        ValueError: The URL has another form, there is a `ca_file` without TLS, or the manifest is
            invalid.

    Example:
        with FewShotClient("grpc://localhost:8500", "bundle/manifest.json") as client:
            head = client.learn(images, labels)
            probabilities = client.predict(new_images, head)
    """

    def __init__(
        self,
        url: str,
        manifest: Manifest | str | Path,
        model: str | None = None,
        features_model: str | None = None,
        timeout: float = 30.0,
        *,
        version: Version = None,
        headers: Mapping[str, str] | None = None,
        ca_file: str | Path | None = None,
    ):
        if not isinstance(manifest, Manifest):
            manifest = parse_manifest(Path(manifest))
        self.manifest = manifest
        self.model = model or served_name(manifest.name)
        self.features_model = features_model or self.model
        self.signatures = manifest.signatures | manifest.encoded_signatures
        self.version = version
        self.transport = connect(url, timeout, headers, ca_file)
        self._served: dict[str, frozenset[str]] = {}

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
            ServingError: The server rejected the request, or did not reply in time.
            ValueError: An input has the wrong dtype or shape; nothing was sent.
        """
        declared, (model, version) = self.signatures[signature], self._place(signature)
        return self.transport.call(model, signature, bind(declared, inputs), declared, version)

    def _place(self, signature: str) -> tuple[str, Version]:
        """The model and the version that has a signature."""
        apart = self.features_model != self.model and signature.startswith("features")
        return (self.features_model, None) if apart else (self.model, self.version)

    def _takes_files(self, signature: str) -> bool:
        """Whether to send pictures as files: where that is faster, and the server takes them.

        Bundles of earlier versions have no such signature.
        """
        if not self.transport.prefers_files or signature not in self.signatures:
            return False
        apart = self.features_model != self.model  # then features come from there
        if apart and signature in ("learn_encoded", "predict_encoded"):
            return False
        model, version = self._place(signature)
        if model not in self._served:
            self._served[model] = self.transport.list_signatures(model, version)
        return signature in self._served[model]

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
        return np.concatenate([self._embed(batch) for batch in batches])

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        if not self._takes_files("features_encoded"):
            return self.call("features", image=batch)["features"]
        return self.call("features_encoded", encoded=self._encode(batch))["features"]

    def _read(self, images: Images) -> np.ndarray:
        manifest = self.manifest
        shape, dtype = manifest.image_shape, manifest.image_dtype
        return read_pixels(list_images(images, shape), shape, dtype, manifest.crops)

    def learn(
        self,
        images: Images,
        labels: np.ndarray | Sequence[int] | Sequence[str],
        names: Sequence[str] | None = None,
        steps: int | None = None,
        learning_rate: float | None = None,
    ) -> Head:
        """Fit a head to images of new classes.

        Args:
            images: M images, as `features` takes them.
            labels: Class of each image: its name, or an integer `0..N-1`. Images with another
                integer are ignored.
            names: Names of the N classes, if labels are integers; `"0"`, `"1"` and so on by
                default, up to the largest label.
            steps: Number of inner steps; the bundle's own by default.
            learning_rate: Inner learning rate; the bundle's own by default.

        Returns:
            The head, for `predict`, a store, or `anil predict --head`.

        Raises:
            ServingError: The server rejected the request, or did not reply in time.
            ValueError: The inputs do not fit the model, or a class has no image.

        Warns:
            UserWarning: The support loss rose.
        """
        if names is None and np.asarray(labels).dtype.kind in "OSU":
            named = class_names(labels)
            names = order_names(set(named))
            labels = [names.index(name) for name in named]
        labels = check_integer_labels(labels)
        images = list_images(images, self.manifest.image_shape)
        if len(labels) != len(images):
            raise ValueError(
                "There must be one label for each image. "
                f"Received: {len(images)} images, {len(labels)} labels"
            )
        if names is None:
            names = [str(label) for label in range(int(labels.max(initial=-1)) + 1)]
        if missing := [name for label, name in enumerate(names) if not (labels == label).any()]:
            raise ValueError(f"there must be at least one image of {missing[0]!r}. Received: none")
        self.manifest.check_ways(len(names))
        settings = {
            "labels": labels,
            "learning_rate": self.manifest.inner_lr if learning_rate is None else learning_rate,
            "steps": self.manifest.inner_steps if steps is None else steps,
        }
        outputs = self._learn(images, len(names), settings)
        features = outputs.pop("features")
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

    def predict(self, images: Images, head: Head, accept: float | None = None) -> np.ndarray:
        """Probabilities `[B, N]` of B images under a head, in the order of its names.

        Args:
            images: Images to classify.
            head: A head of this bundle.
            accept: Share of the images of known classes to accept; see `Predictor.predict`. With it
                the result is `[B, N + 1]`, whose last column is 1 for none of the classes.

        Raises:
            ServingError: The server rejected the request, or did not reply in time.
            ValueError: The head was made with another backbone, the images do not fit the model, or
                the bundle or the head cannot say that an image is none of the classes.
        """
        head.check_backbone(self.manifest)
        thresholds = None if accept is None else self.manifest.find_thresholds(head.counts, accept)
        listed = list_images(images, self.manifest.image_shape)
        weights = {"kernel": head.kernel, "bias": head.bias}
        one_call = 0 < len(listed) <= BATCH and thresholds is None
        if one_call and self._takes_files("predict_encoded"):
            encoded = self._encode(self._read(listed))
            answer = self.call("predict_encoded", encoded=encoded, **weights)
            return answer["probabilities"]
        features = self.features(listed)
        answer = self.call("predict", features=features, **weights)
        if thresholds is None:
            return answer["probabilities"]
        similarity = self.call(
            "similarity",
            features=features,
            support_features=head.support_features,
            support_labels=head.support_labels,
            ways=len(head.names),
        )["similarity"]
        return add_none(answer["probabilities"], similarity, thresholds)

    def learn_and_predict(
        self,
        support_images: Images,
        support_labels: np.ndarray | Sequence[int],
        query_images: Images,
    ) -> np.ndarray:
        """Probabilities `[B, N]` of query images after learning from support images, in one call.

        For episodes whose head is not kept. The settings are those of the bundle. A `shared` head
        has largest label + 1 classes, and images with a negative label are ignored.

        Raises:
            ServingError: The server rejected the request, or did not reply in time.
            ValueError: The inputs do not fit the model.
        """
        support, query = self._read(support_images), self._read(query_images)
        labels = check_integer_labels(support_labels)
        if self._takes_files("adapt_and_predict_encoded"):
            answer = self.call(
                "adapt_and_predict_encoded",
                support_encoded=self._encode(support),
                support_labels=labels,
                query_encoded=self._encode(query),
            )
        else:
            answer = self.call(
                "adapt_and_predict", support_image=support, support_labels=labels, query_image=query
            )
        return answer["probabilities"]

    def _learn(
        self, images: np.ndarray | list[Any], ways: int, settings: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Outputs of `adapt` from the initial head, with the features; in one call where it can."""
        if 0 < len(images) <= BATCH and self._takes_files("learn_encoded"):
            encoded = self._encode(self._read(images))
            return self.call("learn_encoded", encoded=encoded, ways=ways, **settings)
        start = self.call("initial_head", ways=ways)
        features = self.features(images)
        return {"features": features} | self.call("adapt", features=features, **start, **settings)

    def _encode(self, images: np.ndarray) -> np.ndarray:
        """Images that fit the model as PNG files."""
        return encode_pictures(bind(self.signatures["features"], {"image": images})["image"])


# Imported when used: REST must not need TensorFlow.
TRANSPORTS = {
    "grpc": (
        "anil_tf.export.serving.grpc_transport:GrpcTransport",
        "pip install tensorflow-serving-api",
    ),
    "http": ("anil_tf.export.serving.rest_transport:RestTransport", "pip install urllib3"),
}


def connect(
    url: str,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    ca_file: str | Path | None = None,
) -> Transport:
    """Connect to a server by a URL; see `FewShotClient`."""
    parts = urlsplit(url)
    secure = parts.scheme in ("grpcs", "https")
    protocol = parts.scheme.removesuffix("s")
    if protocol not in TRANSPORTS or not url.partition("://")[2]:
        raise ValueError(
            f"url must be grpc://host:port, grpcs://, http:// or https://. Received: {url!r}"
        )
    if ca_file is not None and not secure:
        raise ValueError(
            f"ca_file is for a connection with TLS: use {protocol}s://. Received: url={url!r}"
        )
    if ca_file is not None and not Path(ca_file).is_file():
        raise FileNotFoundError(f"There is no file of certificates {ca_file}")
    target, install = TRANSPORTS[protocol]
    module, name = target.split(":")
    try:
        transport = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"A client of {protocol}:// needs: {install}") from error
    if protocol == "http":
        return transport(url, timeout, headers, ca_file)
    return transport(url.partition("://")[2], timeout, secure, headers, ca_file)
