"""A bundle on TensorFlow Lite Micro, as a microcontroller runs it.

Needs neither TensorFlow nor Keras.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from tflite_micro.python.tflite_micro.runtime import Interpreter

from anil_tf.export import layout
from anil_tf.export.runtime.litert import Arrays, Function, LitertStaticRuntime
from anil_tf.export.signatures import NO_CLASS_LABEL

MOST_ARENA = 2**24  # to measure in; only what is used counts
ALIGNMENT = 32  # what aligning the ends of an arena may take


class TflmRuntime(LitertStaticRuntime):
    """A `Runtime` on the interpreter of TensorFlow Lite Micro.

    Attributes:
        arena_bytes: Working memory of each function, as measured here; pointers are twice as long
            as on a microcontroller.
    """

    name = "tflm"
    files = tuple(layout.TFLM.values())
    precision = "int8"

    def _load(self, threads: int) -> dict[str, Function]:
        self._file = self.bundle / "tflm"
        loaded = {
            name: MicroFunction(name, (self.bundle / file).read_bytes())
            for name, file in layout.TFLM.items()
        }
        self.arena_bytes = {name: function.arena_bytes for name, function in loaded.items()}
        return dict(loaded)

    def _call(self, signature: str, inputs: Arrays) -> Arrays:
        # The files take padding rows, but nothing in them that is not a finite number.
        for labels, features in (("labels", "features"), ("support_labels", "support_features")):
            if labels in inputs:
                ways = inputs["ways"] if "ways" in inputs else inputs["bias"].size
                kept = (inputs[labels] >= 0) & (inputs[labels] < ways)
                inputs = inputs | {
                    labels: np.where(kept, inputs[labels], NO_CLASS_LABEL),
                    features: np.where(kept[:, np.newaxis], inputs[features], 0),
                }
        return super()._call(signature, inputs)


class MicroFunction:
    """One function of a bundle, loaded and run once.

    Args:
        name: Name of its signature.
        content: Content of its `.tflite` file.

    Attributes:
        inputs: Names of its inputs, by their index in the file.
        outputs: Names of its outputs.
        operators: Names of its operators, with their number.
        arena_bytes: Bytes of working memory that it uses.

    Raises:
        ValueError: TensorFlow Lite Micro cannot run it.
    """

    def __init__(self, name: str, content: bytes) -> None:
        model = schema.ModelT.InitFromPackedBuf(content)
        (signature,) = model.signatureDefs
        graph = model.subgraphs[0]
        self.inputs = _sort_names(signature.inputs, graph.inputs)
        self.outputs = _sort_names(signature.outputs, graph.outputs)
        self.operators = _count_operators(model)
        with _reading_stderr() as notes:
            try:
                self._interpreter = Interpreter.from_bytes(content, arena_size=MOST_ARENA)
                self._details = [
                    self._interpreter.get_input_details(index) for index in range(len(self.inputs))
                ]
                self(**{k: np.zeros(d["shape"], d["dtype"]) for k, d in self._named()})
                self._interpreter.print_allocations()
            except RuntimeError as error:
                reason = "; ".join(line for line in notes() if line.strip())
                raise ValueError(
                    f"TensorFlow Lite Micro cannot run {name}: {reason or error}"
                ) from error
            (found,) = re.findall(r"allocation total (\d+) bytes", "\n".join(notes()))
        self.arena_bytes = int(found) + ALIGNMENT

    def _named(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return zip(self.inputs, self._details, strict=True)

    def get_input_details(self) -> dict[str, dict[str, Any]]:
        """The shapes of the inputs as the signatures declare them."""
        # `adapt` takes its features as `[1, 1, M, D]`.
        return {
            name: {"shape": details["shape"][-2:] if name == "features" else details["shape"]}
            for name, details in self._named()
        }

    def __call__(self, **inputs: np.ndarray) -> Arrays:
        """Run it on arrays by name. Images are quantized as the file says: bytes minus 128."""
        for index, (name, details) in enumerate(self._named()):
            array = inputs[name].reshape(details["shape"])
            if details["dtype"] == np.int8 and array.dtype != np.int8:
                parameters = details["quantization_parameters"]
                array = np.rint(array / parameters["scales"]) + parameters["zero_points"]
                array = np.clip(array, -128, 127).astype(np.int8)
            self._interpreter.set_input(array, index)
        self._interpreter.invoke()
        return {
            name: self._interpreter.get_output(index) for index, name in enumerate(self.outputs)
        }


def _sort_names(named: list[Any], tensors: Any) -> list[str]:
    """Names of a signature's tensors, in the order that a graph has them."""
    names = {tensor.tensorIndex: tensor.name.decode() for tensor in named}
    return [names[index] for index in tensors]


def _count_operators(model: Any) -> dict[str, int]:
    """How often each operator occurs in the graphs of a file."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    counts: dict[str, int] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


@contextlib.contextmanager
def _reading_stderr() -> Iterator[Any]:
    """Reads what native code writes to stderr inside the block: a function that returns its lines.

    TensorFlow Lite Micro reports memory and missing operators there alone.
    """
    stderr = os.dup(2)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as notes:
        os.dup2(notes.fileno(), 2)

        def lines() -> list[str]:
            notes.seek(0)
            return notes.read().splitlines()

        try:
            yield lines
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
