"""A server for the tests: TensorFlow Serving where there is one, the same contract elsewhere."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from anil_tf.export.manifest import Manifest, read_manifest


class Served(NamedTuple):
    """A bundle and the URLs, by protocol, under which a server has it."""

    bundle: Path
    manifest: Manifest
    urls: dict[str, str]


@pytest.fixture(scope="session")
def served(request: pytest.FixtureRequest, remark: Callable[[str], None]) -> Iterator[Served]:
    """A server with a bundle.

    `TF_SERVING_URL` (one URL, or the gRPC and the REST one with a space between) and
    `TF_SERVING_BUNDLE` (the bundle that it serves) name one that runs already.
    """
    from anil_tf.export.serving.files import served_name
    from tests.export.serving.server import serve_bundle

    if urls := os.environ.get("TF_SERVING_URL"):
        bundle = Path(os.environ["TF_SERVING_BUNDLE"])
        remark(f"serving tests ran against: the server at {urls}")
        by_protocol = {url.partition(":")[0].removesuffix("s"): url for url in urls.split()}
        yield Served(bundle, read_manifest(bundle), by_protocol)
        return
    bundle = request.getfixturevalue("bundle")
    manifest = read_manifest(bundle)
    with serve_bundle(served_name(manifest.name), bundle) as (what, urls):
        remark(f"serving tests ran against: {what}")
        yield Served(bundle, manifest, urls)


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest, served: Served):
    """A client over each protocol."""
    from anil_tf.export.client import FewShotClient

    if request.param not in served.urls:
        pytest.skip(f"TF_SERVING_URL has no {request.param} URL")
    with FewShotClient(served.urls[request.param], served.manifest) as client:
        yield client
