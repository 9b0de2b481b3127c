"""The embedded data set: scripts and outlines apart, drawings legible and repeatable."""

import numpy as np
import pytest

from anil_tf.datasets import glyphs
from anil_tf.datasets.load import load_tfds
from anil_tf.datasets.splits import SPLITS, SplitRule


def test_no_script_is_in_two_splits():
    scripts = [script for part in glyphs.SCRIPTS.values() for script in part]
    assert len(set(scripts)) == len(scripts)
    assert {glyphs.script_of(name) for name in glyphs.letters()} == set(scripts)


def test_no_two_classes_have_one_outline():
    face = [path.stem for path in glyphs._faces()].index("DejaVuSans")
    outlines = [glyphs.outline(letter, face) for letter in glyphs.letters().values()]
    assert len(set(outlines)) == len(outlines)
    classes = set(glyphs.letters().values())
    assert "A" in classes
    assert not classes & {"\u0391", "\u0410"}  # Greek Alpha and Cyrillic A look like it


def test_a_drawing_repeats_and_drawings_differ():
    np.testing.assert_array_equal(glyphs.draw("g", 3), glyphs.draw("g", 3))
    drawings = {glyphs.draw("g", number).tobytes() for number in range(glyphs.DRAWINGS)}
    assert len(drawings) == glyphs.DRAWINGS


def test_drawings_have_ink_and_white_margins():
    for letter in list(glyphs.letters().values())[::25]:
        for number in range(0, glyphs.DRAWINGS, 3):
            image = glyphs.draw(letter, number)[..., 0]
            assert (image < 128).mean() > 0.01, letter
            border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
            assert border.min() > 200, letter


@pytest.mark.slow
def test_tfds_prepares_it_without_a_network(tmp_path):
    splits = load_tfds("glyphs", SPLITS, (28, 28, 1), SplitRule(), tmp_path)
    assert all((splits[part].counts == glyphs.DRAWINGS).all() for part in SPLITS)
    assert sum(len(splits[part].names) for part in SPLITS) == len(glyphs.letters())
    drawn = glyphs.draw(glyphs.letters()[splits["test"].names[0]], 0)
    assert any(np.array_equal(image, drawn) for image in splits["test"].of(0))
