"""A `.tflite` file as a C array, with what a program needs to know about it."""

from pathlib import Path
from typing import TYPE_CHECKING

from anil_tf.export.signatures import TensorSpec

if TYPE_CHECKING:
    from anil_tf.export.runtime.tflm import MicroFunction  # needs tflite-micro

BYTES_PER_LINE = 32

_TEMPLATE = """\
// {file} for TensorFlow Lite Micro, written by anil-tf. Include it in one source file.
// Operators: {operators}.
#ifndef ANIL_{NAME}_H
#define ANIL_{NAME}_H
#ifndef __cplusplus
#include <stdalign.h>
#endif

// Working memory as measured on a 64-bit computer; a microcontroller needs less.
enum {{ ANIL_{NAME}_ARENA_BYTES = {arena} }};
// Indexes of the inputs and of the outputs.
enum {{
{inputs}
}};
enum {{
{outputs}
}};

alignas(16) static const unsigned char anil_{name}[{size}] = {{
{lines}
}};

#endif
"""


def write_header(path: Path, function: "MicroFunction") -> None:
    """Write `anil_NAME.h` beside `NAME.tflite`, which `function` has loaded.

    Without the prefix, C libraries would take `features.h` for a header of their own.
    """
    name, content = path.stem, path.read_bytes()

    def enumerate_tensors(kind: str, tensors: dict[str, TensorSpec]) -> str:
        return "\n".join(
            f"  ANIL_{name.upper()}_{kind}_{key.upper()} = {index},  // {tensor}"
            for index, (key, tensor) in enumerate(tensors.items())
        )

    text = _TEMPLATE.format(
        file=path.name,
        name=name,
        NAME=name.upper(),
        operators=", ".join(function.operators),
        arena=function.arena_bytes,
        inputs=enumerate_tensors("IN", function.inputs),
        outputs=enumerate_tensors("OUT", function.outputs),
        size=len(content),
        lines="\n".join(
            ",".join(map(str, content[start : start + BYTES_PER_LINE])) + ","
            for start in range(0, len(content), BYTES_PER_LINE)
        ),
    )
    path.with_name(f"anil_{name}.h").write_text(text, encoding="utf-8")
