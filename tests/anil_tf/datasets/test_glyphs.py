"""The embedded data set: scripts and outlines apart, drawings legible and repeatable."""

import unicodedata

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageFont

from anil_tf.datasets import glyphs
from anil_tf.datasets.load import load_tfds
from anil_tf.datasets.splits import SPLITS, SplitRule

BOX = 32


def candidates() -> list[str]:
    """Letters without accents that stand in every face, in the order of scripts and code points."""
    in_all = set.intersection(*(code_points(face) for face in glyphs._faces()))
    plain = [
        letter
        for letter in map(chr, sorted(in_all))
        if unicodedata.category(letter) in ("Ll", "Lu", "Lo")
        and not unicodedata.decomposition(letter)
    ]
    script = [unicodedata.name(letter).split()[0].capitalize() for letter in plain]
    return [
        letter
        for wanted in glyphs.LETTERS
        for letter, of in zip(plain, script, strict=True)
        if of == wanted
    ]


def code_points(face) -> set[int]:
    with TTFont(face, lazy=True) as font:
        return set(font.getBestCmap())


def ink(letters: list[str], face) -> np.ndarray:
    """Undistorted letters scaled to a box, whatever their size and place: bool `[n, 34, 34]`."""
    font = ImageFont.truetype(face, 96, layout_engine=ImageFont.Layout.BASIC)
    bitmaps = np.zeros((len(letters), BOX + 2, BOX + 2), bool)
    for bitmap, letter in zip(bitmaps, letters, strict=True):
        mask = font.getmask(letter, mode="L")
        image = Image.frombytes("L", mask.size, bytes(mask))
        image = image.crop(image.getbbox())
        width, height = (max(1, round(side * BOX / max(image.size))) for side in image.size)
        top, left = (BOX + 2 - height) // 2, (BOX + 2 - width) // 2
        scaled = np.asarray(image.resize((width, height), Image.Resampling.BOX))
        bitmap[top : top + height, left : left + width] = scaled > 127
    return bitmaps


def difference(letters: list[str], face) -> np.ndarray:
    """Pixels of ink further than one pixel from the other letter's ink, `[n, n]`, symmetric."""
    shapes = ink(letters, face)
    near = np.lib.stride_tricks.sliding_window_view(
        np.pad(shapes, ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2)
    ).any(axis=(-2, -1))
    rows = len(letters), -1
    far = shapes.reshape(rows).astype(np.float32) @ (~near).reshape(rows).astype(np.float32).T
    return np.maximum(far, far.T)


@pytest.fixture(scope="module")
def differences() -> tuple[list[str], np.ndarray]:
    """Every candidate, and how far each two differ in the face in which they differ least."""
    found = candidates()
    return found, np.min([difference(found, face) for face in glyphs._faces()], axis=0)


def test_no_script_is_in_two_splits():
    scripts = [script for part in glyphs.SCRIPTS.values() for script in part]
    assert len(set(scripts)) == len(scripts)
    assert {glyphs.script_of(name) for name in glyphs.letters()} == set(scripts)


@pytest.mark.parametrize(("split", "classes"), [("train", 298), ("validation", 31), ("test", 98)])
def test_the_number_of_classes_of_a_split(split, classes):
    assert sum(len(glyphs.LETTERS[script]) for script in glyphs.SCRIPTS[split]) == classes


def test_every_letter_stands_in_every_face(differences):
    assert set(glyphs.letters().values()) <= set(differences[0])


def test_no_two_classes_look_alike_in_any_face(differences):
    found, apart = differences
    kept = [found.index(letter) for letter in glyphs.letters().values()]
    apart = apart[np.ix_(kept, kept)] + 100 * np.eye(len(kept))
    alike = [found[kept[a]] + found[kept[b]] for a, b in np.argwhere(apart <= 2)]
    assert not alike


def test_a_letter_is_left_out_only_for_one_that_it_looks_like(differences):
    found, apart = differences
    classes = set(glyphs.letters().values())
    kept = np.array([letter in classes for letter in found])
    lost = [letter for n, letter in enumerate(found) if not (kept & (apart[n] <= 2))[: n + 1].any()]
    assert not lost


def test_letters_of_one_outline_are_one_class():
    classes = set(glyphs.letters().values())
    assert {"A", "C", "O", "g", "n"} <= classes
    assert not classes & set("\u0391\u0410")  # Greek Alpha, Cyrillic A
    # Small c and o; Armenian oh and co; Cyrillic pe, an n in italics.
    assert not classes & set("co\u0585\u0581\u043f")


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
def test_tfds_prepares_it_without_a_network(glyphs_data_dir):
    splits = load_tfds("glyphs", SPLITS, (28, 28, 1), SplitRule(), glyphs_data_dir)
    assert all((splits[part].counts == glyphs.DRAWINGS).all() for part in SPLITS)
    assert sum(len(splits[part].names) for part in SPLITS) == len(glyphs.letters())
    drawn = glyphs.draw(glyphs.letters()[splits["test"].names[0]], 0)
    assert any(np.array_equal(image, drawn) for image in splits["test"].of(0))
