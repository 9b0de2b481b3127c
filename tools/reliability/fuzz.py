"""Fuzzes every reader of untrusted files, and a server.

    python -m tools.reliability.fuzz --examples 25000

Hypothesis makes the inputs: valid files with bytes changed, cut and repeated, and well-formed ones
with values that are wrong. A reader must return or raise `ValueError` or `OSError` within 5
seconds, and must not open a file for writing outside the scratch folder (an audit hook watches
`open`). Requests go to a bundle in ONNX Runtime, and over gRPC and REST to a server of its
SavedModel (TensorFlow Serving where it is installed), which must reply to or reject each and
continue.
"""

import argparse
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
import wave
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import numpy as np
import tomli_w
from hypothesis import strategies as st
from PIL import Image

from tools.reliability.hostile import (
    arrays,
    damaged,
    native,
    numbers,
    requests_of,
    to_npz,
    to_toml,
    values,
    with_wrong_values,
)

SECONDS = 5
REFUSALS = (ValueError, OSError)
READ_ONLY_MODES = {None, "r", "rb"}
# What a server says of a request that does not fit, by gRPC status and by that of HTTP.
REFUSED = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}
REFUSED_HTTP = {400, 404, 412}


class Watch:
    """Counts inputs and rejections, times each, and records files opened for writing elsewhere."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.slowest = scratch.resolve(), 0.0
        self.counts: Counter[str] = Counter()
        self.outside: list[str] = []
        sys.addaudithook(self._audit)
        self.on = False

    def __call__(self, what: str, reader: Callable[[], Any]) -> None:
        """Reads one input."""
        begun, self.on = time.perf_counter(), True
        signal.alarm(SECONDS)
        try:
            reader()
        except REFUSALS:
            self.counts[f"{what} refused"] += 1
        finally:
            signal.alarm(0)
            self.on = False
        self.counts[what] += 1
        self.slowest = max(self.slowest, time.perf_counter() - begun)
        if self.outside:
            raise RuntimeError(f"opened for writing: {self.outside}")

    def _audit(self, event: str, arguments: tuple) -> None:
        if not self.on or event != "open" or not isinstance(arguments[0], (str, bytes)):
            return
        path, mode, flags = os.fsdecode(arguments[0]), arguments[1], arguments[2]
        writes = mode not in READ_ONLY_MODES or bool(flags & (os.O_WRONLY | os.O_RDWR))
        if writes and not Path(path).resolve().is_relative_to(self.scratch):
            self.outside.append(path)


Campaigns = dict[str, tuple[st.SearchStrategy, Callable[[Any], None]]]


def serving_campaigns(client: Any, rest: str, watch: Watch) -> Campaigns:
    """Requests over the wire: tensors over gRPC, by the client's transport; bodies over REST."""
    from anil_tf.datasets.inputs import encode_pictures
    from anil_tf.export.serving.rest_transport import to_json
    from anil_tf.export.serving.transport import ServingError
    from anil_tf.export.signatures import TensorSpec

    sizes = {"features": client.manifest.feature_size, "ways": 2, "rows": 2, "batch": 1}

    def example(tensor: TensorSpec) -> np.ndarray:
        shape = [sizes.get(axis, axis) for axis in tensor.axes]
        if tensor.dtype != "object":
            return np.ones(shape, tensor.dtype)
        return encode_pictures(np.ones((*shape, *client.manifest.image_shape), np.uint8))

    def strategy(value: np.ndarray) -> st.SearchStrategy[Any]:
        wrong = [st.just(value), numbers, arrays.map(native)]
        if value.dtype == object:
            files = st.lists(damaged(list(value)), min_size=len(value), max_size=len(value))
            wrong.append(files.map(lambda each: np.array(each, object)))
        return st.one_of(wrong)

    valid = {
        name: {key: example(tensor) for key, tensor in signature.inputs.items()}
        for name, signature in client.signatures.items()
    }
    bodies = [
        {"signature_name": name, "inputs": {key: to_json(value) for key, value in inputs.items()}}
        for name, inputs in valid.items()
    ]
    tensors = {
        name: {key: strategy(value) for key, value in inputs.items()}
        for name, inputs in valid.items()
    }

    def rest_reader(body: bytes) -> None:
        def ask() -> None:
            request = urllib.request.Request(f"{rest}/v1/models/{client.model}:predict", body)
            try:
                urllib.request.urlopen(request, timeout=SECONDS).read()
            except urllib.error.HTTPError as error:
                if error.code not in REFUSED_HTTP:
                    raise RuntimeError(f"{error.code}: {error.read()[:1000]!r}") from error
                raise ValueError("refused") from error

        watch("REST", ask)

    def grpc_reader(request: tuple[str, dict[str, np.ndarray]]) -> None:
        def ask() -> None:
            name, inputs = request
            try:
                client.transport.call(client.model, name, inputs, client.signatures[name])
            except ServingError as error:
                if error.code not in REFUSED:
                    raise RuntimeError(str(error)) from error
                raise ValueError("refused") from error

        watch("gRPC", ask)

    return {
        "REST": (
            st.one_of(
                damaged([json.dumps(body).encode() for body in bodies]),
                st.sampled_from(bodies)
                .flatmap(with_wrong_values)
                .map(lambda body: json.dumps(body).encode()),
            ),
            rest_reader,
        ),
        "gRPC": (requests_of(tensors), grpc_reader),
    }


def campaigns(scratch: Path, bundle: Path, watch: Watch) -> Campaigns:
    """Every reader with its inputs."""
    from anil_tf.datasets.folder import list_classes, read_classes
    from anil_tf.datasets.windows import read_window
    from anil_tf.export.head import read_head
    from anil_tf.export.manifest import read_manifest
    from anil_tf.export.runtime.onnx import OnnxRuntime
    from anil_tf.training.recipe import read_recipe, recipe_names

    runtime = OnnxRuntime(bundle)
    manifest = runtime.manifest
    size = manifest.feature_size

    recipes = [
        read_recipe(name).model_dump(mode="json", exclude_none=True) for name in recipe_names()
    ]
    head = {
        "kernel": np.zeros((size, 2), np.float32),
        "bias": np.zeros(2, np.float32),
        "names": np.array(["a", "b"]),
        "support_features": np.ones((2, size), np.float32),
        "support_labels": np.arange(2, dtype=np.int32),
        "backbone_sha256": np.array(manifest.backbone_sha256),
    }
    wrong_head = st.dictionaries(st.sampled_from([*head, "../x", "other"]), arrays, max_size=3).map(
        lambda changes: to_npz({**head, **changes})
    )
    pictures = []
    pixels = np.random.default_rng(0).integers(0, 255, (9, 11, 3)).astype(np.uint8)
    for format in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format)
        pictures.append(file.getvalue())
    windows = {".csv": b"x,y,z\n" + b"0.5,1,-2e3\n" * 8}
    for suffix in (".npy", ".wav"):
        file = io.BytesIO()
        if suffix == ".npy":
            np.save(file, np.ones((8, 3), np.float32))
        else:
            with wave.open(file, "wb") as sound:
                sound.setparams((1, 2, 16_000, 0, "NONE", ""))
                sound.writeframes(bytes(400))
        windows[suffix] = file.getvalue()
    plain = json.loads((bundle / "manifest.json").read_text())
    folder = Path(shutil.copytree(bundle, scratch / "bundle"))
    (scratch / "classes" / "one").mkdir(parents=True)

    def recipe_reader(content: bytes) -> None:
        (scratch / "recipe.toml").write_bytes(content)
        watch("recipe", lambda: read_recipe(scratch / "recipe.toml"))

    def manifest_reader(content: bytes) -> None:
        (folder / "manifest.json").write_bytes(content)
        watch("manifest", lambda: read_manifest(folder))

    def head_reader(content: bytes) -> None:
        (scratch / "head.npz").write_bytes(content)
        watch("head", lambda: read_head(scratch / "head.npz", manifest))

    def image_reader(content: bytes) -> None:
        (scratch / "classes" / "one" / "1.png").write_bytes(content)
        root = scratch / "classes"
        watch("image folder", lambda: read_classes(list_classes(root), (12, 12, 3)))

    def window_reader(named: tuple[str, bytes]) -> None:
        suffix, content = named
        path = scratch / f"window{suffix}"
        path.write_bytes(content)
        watch("window", lambda: read_window(path, (8, 3)))

    def request_reader(request: tuple[str, dict[str, Any]]) -> None:
        signature, inputs = request
        watch("request", lambda: runtime.run(signature, **inputs))

    requests = requests_of(
        {
            name: dict.fromkeys(signature.inputs, st.one_of(arrays, values))
            for name, signature in runtime.signatures.items()
        }
    )
    return {
        "recipe": (
            st.one_of(
                damaged([tomli_w.dumps(tables).encode() for tables in recipes]),
                st.sampled_from(recipes).flatmap(with_wrong_values).map(to_toml),
            ),
            recipe_reader,
        ),
        "manifest": (
            st.one_of(
                damaged([json.dumps(plain).encode()]),
                with_wrong_values(plain).map(lambda tables: json.dumps(tables).encode()),
            ),
            manifest_reader,
        ),
        "head": (st.one_of(damaged([to_npz(head)]), wrong_head), head_reader),
        "image folder": (damaged(pictures), image_reader),
        "window": (
            st.sampled_from(sorted(windows)).flatmap(
                lambda suffix: st.tuples(st.just(suffix), damaged([windows[suffix]]))
            ),
            window_reader,
        ),
        "request": (requests, request_reader),
    }


def fuzz(bundle: Path, examples: int, only: list[str] | None = None) -> dict[str, Any]:
    """Runs every campaign; the counts.

    Args:
        bundle: Folder of a bundle with ONNX and SavedModel.
        examples: Number of inputs per campaign.
        only: Names of the campaigns to run; all by default.

    Raises:
        Exception: A reader raised an exception that is not a rejection.
    """

    def hang(number: int, frame: FrameType | None) -> None:
        raise SystemError(f"no answer within {SECONDS} seconds")

    from anil_tf.export.client import FewShotClient
    from anil_tf.export.manifest import read_manifest
    from anil_tf.export.serving.files import served_name
    from tests.export.serving.server import serve_bundle

    manifest = read_manifest(bundle)
    with (
        tempfile.TemporaryDirectory() as name,
        serve_bundle(served_name(manifest.name), bundle) as (server, urls),
        FewShotClient(urls["grpc"], manifest, timeout=SECONDS) as client,
    ):
        print(f"Requests go to {server}")
        watch = Watch(Path(name))
        signal.signal(signal.SIGALRM, hang)
        every = campaigns(Path(name), bundle, watch)
        every |= serving_campaigns(client, urls["http"], watch)
        for what, (strategy, reader) in every.items():
            if only and what not in only:
                continue
            settings = hypothesis.settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                settings(hypothesis.given(strategy)(reader))()
            print(what, watch.counts[what], f"slowest {watch.slowest:.2f} s", flush=True)
        return {
            "inputs": sum(n for key, n in watch.counts.items() if "refused" not in key),
            "slowest_seconds": round(watch.slowest, 3),
            **watch.counts,
        }


def main() -> None:
    """Makes a small bundle and fuzzes its readers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=25_000, help="inputs of each kind")
    parser.add_argument("--only", action="append")
    arguments = parser.parse_args()

    from anil_tf.export.bundle import export_bundle
    from tests.export.conftest import make_run

    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "bundle"
        export_bundle(make_run(Path(scratch) / "run"), bundle, ["onnx", "saved_model"])
        print(json.dumps(fuzz(bundle, arguments.examples, arguments.only)))


if __name__ == "__main__":
    main()
