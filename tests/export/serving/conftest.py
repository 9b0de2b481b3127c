"""A server for the tests: TensorFlow Serving where there is one, the same contract elsewhere."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from anil_tf.export.manifest import Manifest, read_manifest

RAN: list[str] = []


class Served(NamedTuple):
    """A bundle and the URLs, by protocol, under which a server has it."""

    bundle: Path
    manifest: Manifest
    urls: dict[str, str]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if RAN:
        terminalreporter.write_line(f"serving tests ran against: {RAN[0]}")


@contextlib.contextmanager
def model_server(program: str, bundle: Path, name: str, log: Path) -> Iterator[dict[str, str]]:
    """TensorFlow Serving itself, with the configuration of the bundle."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            ports.append(free.getsockname()[1])
    config = (bundle / "serving" / "models.config").read_text(encoding="utf-8")
    placed = log.with_suffix(".config")
    placed.write_text(config.replace(f"/models/{name}", str(bundle)), encoding="utf-8")
    command = [program, f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--model_config_file={placed}"], stdout=output, stderr=output
        )
    try:
        for port in ports:
            deadline = time.monotonic() + 120
            while True:
                try:
                    socket.create_connection(("localhost", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        pytest.fail(f"{program} did not start: {log.read_text()[-2000:]}")
                    time.sleep(0.2)
        yield {"grpc": f"grpc://localhost:{ports[0]}", "http": f"http://localhost:{ports[1]}"}
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def served(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Served]:
    """A server with a bundle.

    `TF_SERVING_URL` (one URL, or the gRPC and the REST one with a space between) and
    `TF_SERVING_BUNDLE` (the bundle that it serves) name one that runs already.
    """
    from anil_tf.export.serving import served_name

    if urls := os.environ.get("TF_SERVING_URL"):
        bundle = Path(os.environ["TF_SERVING_BUNDLE"])
        RAN.append(f"the server at {urls}")
        by_protocol = {url.partition(":")[0].removesuffix("s"): url for url in urls.split()}
        yield Served(bundle, read_manifest(bundle), by_protocol)
        return
    bundle = request.getfixturevalue("bundle")
    manifest = read_manifest(bundle)
    name = served_name(manifest.name)
    if program := shutil.which("tensorflow_model_server"):
        RAN.append(program)
        log = tmp_path_factory.mktemp("serving") / "server.log"
        with model_server(program, bundle, name, log) as urls:
            yield Served(bundle, manifest, urls)
    else:
        from anil_tf.export import layout
        from tests.export.serving.server import serve

        RAN.append("a test server of the same contract (no tensorflow_model_server on the PATH)")
        with serve(name, bundle / layout.SAVED_MODEL) as urls:
            yield Served(bundle, manifest, urls)


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest, served: Served):
    """A client over each protocol."""
    from anil_tf.export.client import FewShotClient

    if request.param not in served.urls:
        pytest.skip(f"TF_SERVING_URL has no {request.param} URL")
    with FewShotClient(served.urls[request.param], served.manifest) as client:
        yield client
