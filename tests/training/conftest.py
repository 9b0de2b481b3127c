"""Data that the tests of training share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes of 8 noisy 16x16 images: each has a pattern of its own. Not to be changed.

    The names of the classes hold what HTML must escape.
    """
    root = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    for index in range(12):
        folder = root / f"class<{index:02d}>"
        folder.mkdir()
        pattern = rng.integers(0, 255, (4, 4, 3)).repeat(4, 0).repeat(4, 1)
        for number in range(8):
            noise = rng.integers(-20, 20, pattern.shape)
            pixels = np.clip(pattern + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root
