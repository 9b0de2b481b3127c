"""The declared names, and how inputs are brought to them."""

import numpy as np
import pytest

from anil_tf.export.signatures import Signature, TensorSpec, bind, declare, declare_encoded

SIGNATURES = declare((28, 28, 1), "uint8", 64)
ENCODED = declare_encoded((28, 28, 1), "uint8", 64)
PAIR = Signature({"x": TensorSpec("float32", ("rows", 3)), "y": TensorSpec("int32", ("rows",))}, {})


def test_no_name_is_both_input_and_output_of_a_signature():
    assert not [
        name for name, s in (SIGNATURES | ENCODED).items() if set(s.inputs) & set(s.outputs)
    ]


def test_inputs_come_back_in_the_declared_order_and_dtype():
    arrays = bind(PAIR, {"y": [0, 1], "x": np.zeros((2, 3))})
    assert list(arrays) == ["x", "y"]
    assert [array.dtype.name for array in arrays.values()] == ["float32", "int32"]


def test_files_are_bytes_and_stay_whole():
    signature = ENCODED["features_encoded"]
    (files,) = bind(signature, {"encoded": [b"one\0", b"other"]}).values()
    assert files.tolist() == [b"one\0", b"other"]
    for wrong in ([1, 2], ["cat.jpg"], np.zeros((1, 28, 28, 1), np.uint8)):
        with pytest.raises(ValueError, match="Give a list with the bytes of a JPEG or PNG file"):
            bind(signature, {"encoded": wrong})


def test_only_pictures_have_signatures_of_files():
    for shape, dtype in (((128, 6), "float32"), ((28, 28, 4), "uint8"), ((28, 28), "uint8")):
        assert declare_encoded(shape, dtype, 64) == {}


def test_scalars_stay_scalars():
    signature = Signature({"steps": TensorSpec("int32", ())}, {})
    assert bind(signature, {"steps": 5})["steps"].shape == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"x": np.zeros((2, 4)), "y": [0, 1]}, r"x must be float32 \[rows, 3\]"),
        ({"x": np.zeros(3), "y": [0, 1, 2]}, r"x must be .* Received: float64 \[3\]"),
        ({"x": np.zeros((2, 3)), "y": [0.0, 1.0]}, r"y must be int32 \[rows\]"),
        ({"x": np.zeros((2, 3)), "y": [0]}, "x and y must agree in rows. Received: 2 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        bind(PAIR, values)


IMAGES = SIGNATURES["features"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((1, 28, 28, 1), 300, np.uint16), r"image must lie in 0..255. Received: uint16"),
        (np.full((1, 28, 28, 1), 300, np.uint16), r"upper byte of 16-bit pixels: \(x >> 8\)"),
        (np.full((1, 28, 28, 1), -1), r"image must lie in 0..255. Received: int64 from -1 to -1"),
        (np.ones((1, 28, 28, 1), bool), r"Received: bool .* Pixels are 0 to 255: multiply"),
        (np.ones((1, 28, 28, 1)), r"image must be uint8 .* round them and convert them to uint8"),
    ],
)
def test_pixels_that_would_change_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        bind(IMAGES, {"image": image})


def test_pixels_of_a_wider_dtype_are_taken_where_they_are_bytes():
    for dtype in (np.uint16, np.int64):
        image = np.full((1, 28, 28, 1), 255, dtype)
        assert bind(IMAGES, {"image": image})["image"].max() == 255


def test_labels_that_would_wrap_are_refused():
    labels = np.array([0, 2**32])
    with pytest.raises(ValueError, match=r"y must lie in -2147483648..2147483647. Received: int64"):
        bind(PAIR, {"x": np.zeros((2, 3)), "y": labels})
