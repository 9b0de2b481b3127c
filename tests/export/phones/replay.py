"""Reads the calls of the samples for phones out of their text, and makes them again in Python."""

import re

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

from anil_tf.export import layout


def parts(text, start):
    """What the bracket at `start` holds, split at its commas, and where it ends."""
    depth, begun, found = 0, start + 1, []
    for index in range(start, len(text)):
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if depth == 0 or (depth == 1 and text[index] == ","):
            found.append(" ".join(text[begun:index].split()))
            begun = index + 1
        if depth == 0:
            break
    return [part for part in found if part], index + 1


def pairs(text):
    """A map of Kotlin or Swift: expressions by name."""
    inside, _ = parts(text, re.search(r"[(\[]", text).start())
    return dict(re.fullmatch(r'"(\w+)"(?: to |: )(.*)', part).groups() for part in inside)


def calls(file):
    """Function, inputs (expressions by name), outputs and the text before each call, in order."""
    text = file.read_text()
    for found in re.finditer(r'run\(\s*"(\w+)",', text):
        arguments, end = parts(text, found.start() + 3)
        before, inputs = text[: found.start()], arguments[1]
        if inputs == "inputs":
            start = before.rindex("val inputs = mapOf(")
            inputs = before[start:]
        if len(arguments) == 3:  # of LiteRT in Kotlin as a map, of Swift as a list
            outputs = re.findall(r'"(\w+)"', arguments[2])
        else:
            lambda_, _ = parts(text, text.index("{", end))
            outputs = re.findall(r'it\.\w+\("(\w+)"\)', ", ".join(lambda_))
        yield found[1], pairs(inputs), outputs, before


def kotlin_value(expression, state, before):
    """The array that an expression of the Kotlin files stands for."""
    wrapped = re.fullmatch(r"tensor\((.*)\)", expression)
    return state[wrapped[1] if wrapped else expression]


def swift_value(expression, state, before):
    """The array that an expression of the Swift files stands for, in the shape that it gives."""

    def look_up(text):
        """What a variable was made of; any other expression as it is."""
        return re.findall(rf"let {text} = (?:try )?(.+)", before)[-1] if text.isalpha() else text

    expression = look_up(expression)
    arguments, _ = parts(expression, expression.index("("))
    value = arguments[0] if arguments[0] in state else look_up(arguments[0])
    array = state[re.sub(r"^bytes\((.*)\)$", r"\1", value)]
    if len(arguments) == 3:  # of ONNX Runtime, with the dtype
        types = {"uint8": ".uInt8", "int32": ".int32", "float32": ".float"}
        assert arguments[1] == types[array.dtype.name]
    shape, _ = parts(look_up(arguments[-1]), 0)
    return np.reshape(array, [state[size] for size in shape])


def run_onnx(bundle, function, inputs, outputs):
    session = onnxruntime.InferenceSession(bundle / f"onnx/{function}.onnx")
    return session.run(outputs, {name: np.asarray(array) for name, array in inputs.items()})


def run_litert(bundle, function, inputs, outputs):
    runner = Interpreter(str(bundle / layout.LITERT)).get_signature_runner(function)
    found = runner(**inputs)
    return [found[name] for name in outputs]
