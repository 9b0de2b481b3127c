"""What all tests share: reproducible randomness, quiet logs, and where the data sets are."""

import gc
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Read by TensorFlow when it is imported, so set before any test module is.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import filelock
import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# Examples drawn the same way in every run; no deadline, since a first call may trace a graph.
hypothesis.settings.register_profile("anil", derandomize=True, deadline=None)
hypothesis.settings.load_profile("anil")


def pytest_collection_finish() -> None:
    """Keeps what the imports made out of later searches for garbage, and these rare.

    They took up to a fifth of a file's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seeds every test, and the fixtures made for it, where Keras is in use at all."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


REMARKS: list[str] = []


@pytest.fixture(scope="session")
def remark(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Shows a line at the end of the output, also from a worker of pytest-xdist."""
    if hasattr(pytestconfig, "workeroutput"):
        return pytestconfig.workeroutput.setdefault("remarks", []).append
    return REMARKS.append


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collects the remarks of a worker that ends."""
    REMARKS.extend(getattr(node, "workeroutput", {}).get("remarks", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows each remark once."""
    for text in dict.fromkeys(REMARKS):
        terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder that all workers of pytest-xdist share. The first that asks makes it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, partial = root / name, root / f"{name}.part"
        with filelock.FileLock(root / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                fill(partial)
                partial.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder beside the checkout with data sets that are no part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def omniglot_data_dir() -> Path:
    """A TFDS data directory that holds Omniglot, prepared."""
    data_dir = Path(os.environ.get("ANIL_DATA_DIR") or SHARED_DATA / "tensorflow_datasets")
    if not (data_dir / "omniglot").is_dir():
        pytest.skip("no Omniglot here: set ANIL_DATA_DIR to a TFDS data directory that holds it")
    return data_dir


@pytest.fixture(scope="session")
def glyphs_data_dir(made_once: Callable[..., Path]) -> Path:
    """A TFDS data directory in which the glyphs are prepared."""

    def prepare(folder: Path) -> None:
        from anil_tf.datasets.tfds import read_tfds

        read_tfds("glyphs", ["test"], (28, 28, 1), folder)

    return made_once("glyphs", prepare)
