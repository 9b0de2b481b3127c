"""What all tests share: reproducible randomness, quiet logs, and where the data sets are."""

import os
import sys
from pathlib import Path

# Read by TensorFlow when it is imported, so set before any test module is.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# Examples drawn the same way in every run; no deadline, since a first call may trace a graph.
hypothesis.settings.register_profile("anil", derandomize=True, deadline=None)
hypothesis.settings.load_profile("anil")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seeds every test, and the fixtures made for it, where Keras is in use at all."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


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
def glyphs_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFDS data directory for the glyphs: the first test that reads them prepares them."""
    return tmp_path_factory.mktemp("glyphs")
