"""The declared names, and how inputs are brought to them."""

import numpy as np
import pytest

from anil_tf.export.signatures import Signature, TensorSpec, bind, declare

SIGNATURES = declare((28, 28, 1), "uint8", 64)
PAIR = Signature({"x": TensorSpec("float32", ("rows", 3)), "y": TensorSpec("int32", ("rows",))}, {})


def test_no_name_is_both_input_and_output_of_a_signature():
    assert not [name for name, s in SIGNATURES.items() if set(s.inputs) & set(s.outputs)]


def test_inputs_come_back_in_the_declared_order_and_dtype():
    arrays = bind(PAIR, {"y": [0, 1], "x": np.zeros((2, 3))})
    assert list(arrays) == ["x", "y"]
    assert [array.dtype.name for array in arrays.values()] == ["float32", "int32"]


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
