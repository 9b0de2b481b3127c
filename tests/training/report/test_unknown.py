"""What a report says of images of unknown classes."""

import numpy as np
import pytest

from anil_tf.training.report import charts
from anil_tf.training.report.unknown import UnknownClasses


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_let_through_is_drawn(count, channels):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 12, channels), np.uint8)
    found = UnknownClasses({}, images, images[::-1], np.linspace(0.9, 0.5, count))
    assert charts.draw_let_through(found).startswith(b"\x89PNG")
