"""A bundle for drawings, the page of it, and whatever of Node and Chromium is there."""

import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.export.conftest import make_run


@pytest.fixture(scope="session")
def browser_example(repository: Path) -> Path:
    """The folder of the browser's example, with Node and its packages there."""
    folder = repository / "examples" / "browser"
    if not shutil.which("node"):
        pytest.skip("Node.js is not installed")
    if not (folder / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("the packages of the page are not installed: npm ci in examples/browser")
    return folder


@pytest.fixture(scope="session")
def bundle(made_once: Callable[..., Path]) -> Path:
    """Random convolutions as at the start of a recipe, enough to classify simple drawings."""

    def export(folder: Path) -> None:
        import keras

        from anil_tf import backbones
        from anil_tf.export.bundle import export_bundle

        keras.utils.set_random_seed(0)
        backbone = backbones.conv4_strided(pooling=False, cosine=True, invert=True)
        run = make_run(folder / "run", backbone=backbone, inner_lr=20.0, inner_steps=1)
        export_bundle(run, folder / "bundle", ["onnx"])

    return made_once("drawings", export) / "bundle"


@pytest.fixture(scope="session")
def per_class_bundle(made_once: Callable[..., Path]) -> Path:
    """A bundle with a column for each of five classes."""

    def export(folder: Path) -> None:
        from anil_tf.export.bundle import export_bundle

        export_bundle(make_run(folder / "run", "per_class"), folder / "bundle", ["onnx"])

    return made_once("per-class-drawings", export) / "bundle"


@pytest.fixture(scope="session")
def page_root(
    browser_example: Path,
    bundle: Path,
    per_class_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the page, its packages and two bundles. Not to be changed."""
    root = tmp_path_factory.mktemp("served")
    for path in browser_example.iterdir():
        (root / path.name).symlink_to(path)
    for name, folder in {"bundle": bundle, "per_class": per_class_bundle}.items():
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(folder)
    return root


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a folder by Python's own file server, as the page's README says; its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    servers = contextlib.ExitStack()

    def start(folder: Path) -> str:
        handler = functools.partial(Quiet, directory=str(folder))
        server = servers.enter_context(http.server.ThreadingHTTPServer(("localhost", 0), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.callback(server.shutdown)
        return f"http://localhost:{server.server_port}/"

    with servers:
        yield start


@pytest.fixture(scope="session")
def address(page_root: Path, serve: Callable[[Path], str]) -> str:
    """Where the page is served."""
    return serve(page_root)


DRIVE = Path(__file__).parent / "drive.mjs"


@pytest.fixture(scope="session")
def chromium(browser_example: Path) -> str:
    """The path of Chromium."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("Chromium is not installed")
    if not (browser_example / "node_modules" / "playwright-core").is_dir():
        pytest.skip("playwright-core is not installed: npm ci in examples/browser")
    return path


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[str]:
    """The address of a browser that all tests use: each has a profile of its own."""
    command = ["node", str(DRIVE), "serve", chromium]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.communicate(timeout=60)  # closes its input, which ends it


@pytest.fixture
def drive(browser: str, chromium: str, address: str) -> Callable[..., dict[str, Any]]:
    """Runs a scenario of drive.mjs on the page, or at another address; what was seen."""

    def run(
        scenario: str, query: str = "", picture: Path | None = None, at: str = address
    ) -> dict[str, Any]:
        # A browser with a camera is started with one.
        place = chromium if scenario == "camera" else browser
        command = ["node", DRIVE, scenario, place, at + query]
        command += [picture] if picture else []
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
