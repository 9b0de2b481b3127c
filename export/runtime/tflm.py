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
from anil_tf.export.signatures import NO_CLASS_LABEL, TensorSpec

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
    remedy = "Export with larger --ways or --rows"

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
        inputs: Dtypes and shapes of its inputs, in the order that the file has them.
        outputs: Dtypes and shapes of its outputs.
        operators: Names of its operators, with their number.
        arena_bytes: Bytes of working memory that it needs.

    Raises:
        ValueError: TensorFlow Lite Micro cannot run it.
    """

    def __init__(self, name: str, content: bytes) -> None:
        model = schema.ModelT.InitFromPackedBuf(content)
        (signature,) = model.signatureDefs
        graph = model.subgraphs[0]
        self.operators = _count_operators(model)
        with _reading_stderr() as lines:
            try:
                interpreter = Interpreter.from_bytes(content, arena_size=MOST_ARENA)
                inputs = [interpreter.get_input_details(i) for i in range(len(graph.inputs))]
                outputs = [interpreter.get_output_details(i) for i in range(len(graph.outputs))]
                self._interpreter = interpreter
                self._quantization = inputs[0]["quantization_parameters"]  # that of an image
                self.inputs = _name(signature.inputs, graph.inputs, inputs)
                self.outputs = _name(signature.outputs, graph.outputs, outputs)
                self(**{key: np.zeros(_shape(t), t.dtype) for key, t in self.inputs.items()})
                interpreter.print_allocations()
            except RuntimeError as error:
                reason = "; ".join(line for line in lines() if line.strip())
                raise ValueError(
                    f"TensorFlow Lite Micro cannot run {name}: {reason or error}"
                ) from error
            (found,) = re.findall(r"allocation total (\d+) bytes", "\n".join(lines()))
        self.arena_bytes = int(found) + ALIGNMENT

    def get_input_details(self) -> dict[str, dict[str, Any]]:
        """The shapes of the inputs as the signatures declare them."""
        # `adapt` takes its features as `[1, 1, M, D]`.
        return {
            name: {"shape": axes[-2:] if name == "features" else axes}
            for name, (_, axes) in self.inputs.items()
        }

    def __call__(self, **inputs: np.ndarray) -> Arrays:
        """Run it on arrays by name. Images are quantized as the file says: bytes minus 128."""
        for index, (name, tensor) in enumerate(self.inputs.items()):
            array = inputs[name].reshape(_shape(tensor))
            if tensor.dtype == "int8" and array.dtype != np.int8:
                scaled = np.rint(array / self._quantization["scales"])
                array = np.clip(scaled + self._quantization["zero_points"], -128, 127)
            self._interpreter.set_input(array.astype(tensor.dtype, copy=False), index)
        self._interpreter.invoke()
        return {
            name: self._interpreter.get_output(index) for index, name in enumerate(self.outputs)
        }


def _name(named: list[Any], order: Any, details: list[dict[str, Any]]) -> dict[str, TensorSpec]:
    """Dtypes and shapes of tensors by their names in a signature, in the order of a graph."""
    names = {tensor.tensorIndex: tensor.name.decode() for tensor in named}
    return {
        names[index]: TensorSpec(np.dtype(found["dtype"]).name, tuple(map(int, found["shape"])))
        for index, found in zip(order, details, strict=True)
    }


def _shape(tensor: TensorSpec) -> tuple[int, ...]:
    return tuple(map(int, tensor.axes))


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
