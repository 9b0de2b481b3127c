"""The six functions of a bundle, with the same names, dtypes and axes in every format."""

from typing import Any, NamedTuple

import numpy as np

# Where sizes are fixed, rows beyond those that there are have this label, and columns beyond the
# classes have kernel 0 and this bias. The softmax of such a column is exactly 0, and so is all that
# it could change. It is finite, since 0 times it must be 0.
NO_CLASS_LABEL = -1
NO_CLASS_BIAS = -1e30

# Limits of the numbers in a request. Larger ones would only waste memory or time.
MAX_STEPS = 2**14
LIMITS = {"ways": (1, 2**16), "steps": (0, MAX_STEPS)}


class TensorSpec(NamedTuple):
    """A NumPy dtype name, and axes: a number for a fixed size, a name for a variable one."""

    dtype: str
    axes: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.axes))}]"


class Signature(NamedTuple):
    """Inputs and outputs of a function, by name and in order."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


def declare(
    image_shape: tuple[int, ...], image_dtype: str, feature_size: int
) -> dict[str, Signature]:
    """The signatures of a bundle.

    An input and an output of one signature never share a name: LiteRT would confuse them.

    Args:
        image_shape: Shape of one image, `(H, W, C)`.
        image_dtype: `"uint8"`, or `"float32"` for data that is not images.
        feature_size: D, the width of the backbone's output.

    Returns:
        A signature for each of `features`, `initial_head`, `adapt`, `predict`, `similarity` and
        `adapt_and_predict`.
    """

    def images(axis: str) -> TensorSpec:
        return TensorSpec(image_dtype, (axis, *image_shape))

    def floats(*axes: int | str) -> TensorSpec:
        return TensorSpec("float32", axes)

    def integers(*axes: int | str) -> TensorSpec:
        return TensorSpec("int32", axes)

    # `adapt`, `predict` and `similarity` do not depend on the feature size: there it is open.
    kernel, bias = floats("features", "ways"), floats("ways")
    return {
        "features": Signature(
            {"image": images("batch")},
            {"features": floats("batch", feature_size)},
        ),
        "initial_head": Signature(
            {"ways": integers()},
            {"kernel": floats(feature_size, "ways"), "bias": bias},
        ),
        "adapt": Signature(
            {
                "features": floats("rows", "features"),
                "labels": integers("rows"),
                "kernel": kernel,
                "bias": bias,
                "learning_rate": floats(),
                "steps": integers(),
            },
            {
                "adapted_kernel": kernel,
                "adapted_bias": bias,
                "initial_loss": floats(),
                "final_loss": floats(),
                "rows_used": integers(),
            },
        ),
        "predict": Signature(
            {"features": floats("batch", "features"), "kernel": kernel, "bias": bias},
            {"logits": floats("batch", "ways"), "probabilities": floats("batch", "ways")},
        ),
        "similarity": Signature(
            {
                "features": floats("batch", "features"),
                "support_features": floats("rows", "features"),
                "support_labels": integers("rows"),
                "ways": integers(),
            },
            {"similarity": floats("batch", "ways")},
        ),
        "adapt_and_predict": Signature(
            {
                "support_image": images("rows"),
                "support_labels": integers("rows"),
                "query_image": images("batch"),
            },
            {"probabilities": floats("batch", "ways")},
        ),
    }


def declare_encoded(
    image_shape: tuple[int, ...], image_dtype: str, feature_size: int
) -> dict[str, Signature]:
    """The signatures of a SavedModel alone, which take pictures as the bytes of their files.

    The files are JPEG or PNG; `object` stands for TensorFlow's strings. The numbers are those that
    the other signatures give for the pixels.

    Args:
        image_shape: Shape of one image, `(H, W, C)`.
        image_dtype: dtype of the images.
        feature_size: D, the width of the backbone's output.

    Returns:
        `features_encoded`, `learn_encoded` (features, the initial head and `adapt` at once),
        `predict_encoded` and `adapt_and_predict_encoded`; none for data that are not pictures.
    """
    if image_dtype != "uint8" or len(image_shape) != 3 or image_shape[2] not in (1, 3):
        return {}
    declared = declare(image_shape, image_dtype, feature_size)
    kernel, bias = declared["initial_head"].outputs.values()

    def files(axis: str) -> TensorSpec:
        return TensorSpec("object", (axis,))

    numbers = ("labels", "learning_rate", "steps")
    return {
        "features_encoded": Signature({"encoded": files("batch")}, declared["features"].outputs),
        "learn_encoded": Signature(
            {
                "encoded": files("rows"),
                **{name: declared["adapt"].inputs[name] for name in numbers},
                "ways": TensorSpec("int32", ()),
            },
            declared["adapt"].outputs
            | {"adapted_kernel": kernel, "features": TensorSpec("float32", ("rows", feature_size))},
        ),
        "predict_encoded": Signature(
            {"encoded": files("batch"), "kernel": kernel, "bias": bias},
            declared["predict"].outputs,
        ),
        "adapt_and_predict_encoded": Signature(
            {
                "support_encoded": files("rows"),
                "support_labels": declared["adapt_and_predict"].inputs["support_labels"],
                "query_encoded": files("batch"),
            },
            declared["adapt_and_predict"].outputs,
        ),
    }


def difference(declared: Signature, found: Signature) -> str:
    """The difference between a graph's tensors and the declared ones, in words; empty if none.

    A size that is variable on either side matches any size.
    """
    for expected, actual in zip(declared, found, strict=True):
        if set(expected) != set(actual):
            return f"it has {sorted(actual)} instead of {sorted(expected)}"
        for name, tensor in expected.items():
            dtype, axes = actual[name]
            fits = dtype == tensor.dtype and len(axes) == len(tensor.axes)
            for sizes in zip(axes, tensor.axes, strict=False):
                fits = fits and len({size for size in sizes if isinstance(size, int)}) < 2
            if not fits:
                return f"{name} is {actual[name]} in the graph and {tensor} by the manifest"
    return ""


def bind(signature: Signature, values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Values for a signature's inputs, as arrays of its dtypes.

    Integers may widen or narrow where their values allow it, and so may floats. Float and boolean
    images are not converted to bytes.

    Args:
        signature: Signature with the names, dtypes and axes.
        values: Array-likes by input name.

    Returns:
        Arrays by input name, in the declared order.

    Raises:
        ValueError: A dtype, a rank or a fixed size is wrong, a value does not fit the dtype, or an
            axis that two inputs share has two sizes.
    """
    arrays: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[str, int]] = {}
    for name, tensor in signature.inputs.items():
        array = np.asarray(values[name], object if tensor.dtype == "object" else None)
        integers = array.dtype.kind in "iu" and np.dtype(tensor.dtype).kind in "iu"
        fits = integers or np.can_cast(array.dtype, tensor.dtype, casting="same_kind")
        fits = fits and array.ndim == len(tensor.axes)
        fits = fits and not (array.dtype == bool and tensor.dtype == "uint8")
        if tensor.dtype == "object":
            fits = fits and all(isinstance(each, bytes) for each in array.ravel())
        for axis, size in zip(tensor.axes, array.shape, strict=False):
            if isinstance(axis, int):
                fits = fits and size == axis
                continue
            first, expected = sizes.setdefault(axis, (name, size))
            if size != expected:
                raise ValueError(
                    f"{first} and {name} must agree in {axis}. Received: {expected} and {size}"
                )
        if not fits:
            received = TensorSpec(str(array.dtype), array.shape)
            raise ValueError(f"{name} must be {tensor}. Received: {received}{_hint(array, tensor)}")
        _check_range(name, array, tensor)
        arrays[name] = np.ascontiguousarray(array, tensor.dtype).reshape(array.shape)
    return arrays


def _hint(array: np.ndarray, tensor: TensorSpec) -> str:
    """What to do about pixels of another dtype."""
    if tensor.dtype == "object":
        return ". Give a list with the bytes of a JPEG or PNG file for each picture"
    if tensor.dtype == "uint8" and array.dtype == bool:
        return ". Pixels are 0 to 255: multiply by np.uint8(255)"
    if tensor.dtype == "uint8" and array.dtype.kind == "f":
        return ". Pixels are whole numbers from 0 to 255: round them and convert them to uint8"
    return ""


def _check_range(name: str, array: np.ndarray, tensor: TensorSpec) -> None:
    """Reject integers that would wrap around in a smaller dtype."""
    if np.dtype(tensor.dtype).kind not in "iu" or np.can_cast(array.dtype, tensor.dtype):
        return
    least, most = np.iinfo(tensor.dtype).min, np.iinfo(tensor.dtype).max
    if array.size and (array.min() < least or array.max() > most):
        to_bytes = name.endswith("image") and array.dtype == np.uint16
        hint = ". Take the upper byte of 16-bit pixels: (x >> 8)" if to_bytes else ""
        raise ValueError(
            f"{name} must lie in {least}..{most}. "
            f"Received: {array.dtype} from {array.min()} to {array.max()}{hint}"
        )
