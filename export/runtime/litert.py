"""A bundle on LiteRT. Needs neither TensorFlow nor Keras."""

import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.options import CpuOptions, Options

from anil_tf.export import layout
from anil_tf.export.manifest import Draft
from anil_tf.export.runtime.base import BundleRuntime
from anil_tf.export.signatures import NO_CLASS_BIAS, NO_CLASS_LABEL, TensorSpec

Arrays = dict[str, np.ndarray]

# Padding of inputs with fixed shapes; kernels and features are padded with 0.
PADDING = {
    "labels": NO_CLASS_LABEL,
    "support_labels": NO_CLASS_LABEL,
    "bias": NO_CLASS_BIAS,
}


class Function(Protocol):
    """A signature of a LiteRT file."""

    def __call__(self, **inputs: np.ndarray) -> Arrays:
        """Run it on arrays by name."""

    def get_input_details(self) -> dict[str, dict[str, Any]]:
        """A dict for each input, with its `shape` among others."""


class LitertRuntime(BundleRuntime):
    """A `Runtime` on LiteRT's interpreter, on the CPU, for any sizes.

    Args:
        bundle: Folder of the bundle.
        threads: Number of threads; a head is too small to benefit from more than one.
    """

    name = "litert"
    files: tuple[str, ...] = (layout.LITERT,)

    def __init__(self, bundle: str | Path | Draft, threads: int = 1) -> None:
        super().__init__(bundle)
        self._file = self.bundle / self.files[0]
        self._functions = self._load(threads)
        self.signatures = {name: self.signatures[name] for name in self._functions}

    def _load(self, threads: int) -> dict[str, Function]:
        interpreter = Interpreter(str(self._file), num_threads=threads)
        runners = {
            name: interpreter.get_signature_runner(name)
            for name in interpreter.get_signature_list()
        }
        for runner in runners.values():
            runner._interpreter_wrapper = _ScalarsKept(runner._interpreter_wrapper)
        return runners

    def _run(self, signature: str, inputs: Arrays) -> Arrays:
        for name, array in inputs.items():
            if array.size == 0:
                raise ValueError(f"{name} must not be empty. Received: shape {list(array.shape)}")
        return self._call(signature, inputs)

    def _call(self, signature: str, inputs: Arrays) -> Arrays:
        return self._functions[signature](**inputs)


class _ScalarsKept:
    """LiteRT's own wrapper, by which its signature runners do all, without resizing scalars.

    The wheel of LiteRT 2.3 for ARM64 ends the process where a tensor is resized to the shape `[]`.
    """

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)

    def ResizeInputTensor(self, index: int, shape: np.ndarray, strict: bool, graph: int) -> None:
        """Resizes an input that is not a scalar; a scalar has its shape already."""
        if shape.size:
            self._wrapper.ResizeInputTensor(index, shape, strict, graph)


class LitertInt8Runtime(LitertRuntime):
    """A `Runtime` on the file whose convolutions are in 8-bit integers."""

    name = "litert_int8"
    files = (layout.LITERT_INT8,)
    precision = "int8"


class LitertStaticRuntime(LitertRuntime):
    """A `Runtime` on the file with fixed shapes: pads inputs and cuts outputs.

    A batch of any size is run in parts. Rows and classes must fit into the file. The feature size
    is that of the bundle.
    """

    name = "litert_static"
    files: tuple[str, ...] = (layout.LITERT_STATIC,)
    remedy = "The litert runtime takes any number"

    def __init__(self, bundle: str | Path | Draft, threads: int = 1) -> None:
        super().__init__(bundle, threads)
        self._held: dict[int | str, int] = {
            axis: int(size)
            for name, function in self._functions.items()
            for key, details in function.get_input_details().items()
            for axis, size in zip(
                self.signatures[name].inputs[key].axes, details["shape"], strict=True
            )
        }
        self.room = self._held["ways"], self._held["rows"]

    def _call(self, signature: str, inputs: Arrays) -> Arrays:
        declared = self.signatures[signature]
        sizes: dict[int | str, int] = {
            axis: size
            for name, tensor in declared.inputs.items()
            for axis, size in zip(tensor.axes, inputs[name].shape, strict=True)
        }
        if "ways" in inputs:
            sizes["ways"] = int(inputs["ways"])
        self._check(sizes)

        padded = {
            name: self._pad(inputs[name], tensor.axes, PADDING.get(name, 0))
            for name, tensor in declared.inputs.items()
        }
        step = self._held["batch"]
        parts = []
        for start in range(0, sizes.get("batch", step), step):
            rows = {
                name: padded[name][start : start + step]
                for name, tensor in declared.inputs.items()
                if _is_batched(tensor)
            }
            parts.append(super()._call(signature, padded | rows))

        outputs = {}
        for name, tensor in declared.outputs.items():
            values = [part[name] for part in parts]
            whole = np.concatenate(values) if _is_batched(tensor) else values[0]
            outputs[name] = whole[tuple(slice(sizes.get(axis)) for axis in tensor.axes)]
        return outputs

    def _check(self, sizes: dict[int | str, int]) -> None:
        for axis in ("rows", "ways", "features"):
            size, held = sizes.get(axis, self._held[axis]), self._held[axis]
            if size > held or (axis == "features" and size != held):
                raise ValueError(
                    f"{self._file.name} has room for {held} {axis}. Received: {size}. {self.remedy}"
                )

    def _pad(self, array: np.ndarray, axes: tuple[int | str, ...], value: float) -> np.ndarray:
        """Pad every axis to the size in the file, and a batch to a multiple of it."""
        shape = [
            math.ceil(size / self._held[axis]) * self._held[axis]
            for axis, size in zip(axes, array.shape, strict=True)
        ]
        padded = np.full(shape, value, array.dtype)
        padded[tuple(map(slice, array.shape))] = array
        return padded


class LitertCompiledRuntime(LitertStaticRuntime):
    """A `Runtime` on LiteRT's `CompiledModel`, which its APIs for phones and browsers use.

    It runs the file with fixed shapes: with dynamic ones LiteRT 2.3 writes beyond the buffers of
    outputs whose size it learns while running.
    """

    name = "litert_compiled"

    def _load(self, threads: int) -> dict[str, Function]:
        options = Options(
            hardware_accelerators=HardwareAccelerator.CPU,
            cpu_options=CpuOptions(num_threads=threads),
        )
        model = CompiledModel.from_file(str(self._file), options=options)
        return {name: _CompiledFunction(model, name) for name in model.get_signature_list()}


class _CompiledFunction:
    """A signature of a compiled model, with buffers that are used again in every call."""

    def __init__(self, model: CompiledModel, name: str) -> None:
        self._model, self._name = model, name
        self._outputs = model.get_output_tensor_details(name)
        self._input_buffers = {
            key: model.create_input_buffer_by_name(name, key) for key in self.get_input_details()
        }
        self._output_buffers = {
            key: model.create_output_buffer_by_name(name, key) for key in self._outputs
        }

    def get_input_details(self) -> dict[str, dict[str, Any]]:
        return self._model.get_input_tensor_details(self._name)

    def __call__(self, **inputs: np.ndarray) -> Arrays:
        for key, array in inputs.items():
            self._input_buffers[key].write(array)
        self._model.run_by_name(self._name, self._input_buffers, self._output_buffers)
        return {
            key: self._output_buffers[key]
            .read(math.prod(details["shape"]), details["dtype"])
            .reshape(details["shape"])
            for key, details in self._outputs.items()
        }


def _is_batched(tensor: TensorSpec) -> bool:
    return tensor.axes[:1] == ("batch",)
