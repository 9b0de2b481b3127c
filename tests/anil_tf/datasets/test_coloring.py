"""Colour photographs are distinguished from drawings, whatever their ink, paper and light."""

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from anil_tf.datasets.coloring import are_colored, is_colored

FONT = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf"


def photograph(seed=0):
    """A scene of a few smooth patches of colour."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    return small.resize((240, 200), Image.Resampling.BICUBIC)


def drawing(ink, paper):
    """A thick letter in uneven light, with noise."""
    image = Image.new("RGB", (240, 240), paper)
    font = ImageFont.truetype(FONT, 200)
    ImageDraw.Draw(image).text((30, 0), "A", fill=ink, font=font)
    light = np.linspace(1, 0.6, 240)[np.newaxis, :, np.newaxis]
    noise = np.random.default_rng(0).normal(0, 6, (240, 240, 3))
    drawn = Image.fromarray((np.asarray(image) * light + noise).clip(0, 255).astype(np.uint8))
    return drawn.resize((24, 24))


def test_a_photograph_is_coloured_and_the_same_in_grey_is_not():
    assert is_colored(np.asarray(photograph()))
    assert not is_colored(np.asarray(photograph().convert("L").convert("RGB")))


@pytest.mark.parametrize("ink", ["black", (20, 40, 150), (180, 20, 30)])
@pytest.mark.parametrize("paper", ["white", (235, 215, 170), (190, 205, 245)])
def test_a_drawing_is_not_coloured(ink, paper):
    assert not is_colored(np.asarray(drawing(ink, paper)))


def test_more_than_a_third_of_the_pictures_must_be_coloured(tmp_path):
    files = []
    for index in range(6):
        files.append(tmp_path / f"{index}.jpg")
        (photograph(index) if index < 3 else drawing("black", "white")).save(files[-1])
    assert are_colored(files)
    assert are_colored([photograph(), *files[3:5]]) is False
    (tmp_path / "0.jpg").write_bytes(b"no picture")
    assert are_colored(files[:1]) is False
    assert are_colored([np.zeros((9, 9, 3), np.uint8)]) is False


def test_a_picture_is_left_as_it_is():
    picture = photograph()
    before = picture.copy()
    assert are_colored([picture])
    assert picture.size == before.size and picture.tobytes() == before.tobytes()
