"""The samples for phones, against a bundle: run, compiled, or their calls replayed.

`make phones` gets the Kotlin compiler, ONNX Runtime's headers and its Java classes; without it, and
where there is no Swift compiler, those tests are skipped.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import ai_edge_litert
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from anil_tf.datasets.pictures import to_array
from anil_tf.export import layout
from anil_tf.export.runtime import open_bundle
from tests.conftest import ROOT
from tests.export.phones.replay import calls, kotlin_value, run_litert, run_onnx, swift_value

KIT = ROOT / "build/phones"
HERE = Path(__file__).parent
ANDROID = ROOT / "examples/android/app/src/main/java/org/example/fewshot"
IOS = ROOT / "examples/ios/Sources/FewShot"
C = ROOT / "examples/c"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror")
LITERT_HEADERS = ("common", "compiled_model", "environment", "model", "options", "tensor_buffer")
WAYS, WIDTH = 3, 20  # classes of the task; space for classes in the file of fixed shapes
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Task:
    """Images of three classes, and what Python learns from them."""

    def __init__(self, bundle, folder):
        self.folder = folder
        self.images = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1), np.uint8)
        self.labels = np.array([0, 1, 2, 0, 1, 2], np.int32)
        self.runtime = open_bundle(bundle, "onnx")
        self.features = self.runtime.features(self.images)
        initial = self.runtime.initial_head(WAYS)
        rate, steps = self.runtime.inner_lr, self.runtime.inner_steps
        self.adapted = self.runtime.adapt(self.features, self.labels, *initial, rate, steps)
        head = self.adapted.kernel, self.adapted.bias
        self.probabilities = self.runtime.predict(self.features, *head)[1]
        self.images.tofile(folder / "images")
        self.labels.tofile(folder / "labels")
        self.numbers = [str(self.features.shape[1]), repr(rate), str(steps)]

    def check(self, path, width=WAYS):
        """Compares a head of `width` classes, and the probabilities, with Python's."""
        found = np.fromfile(path, "<f4")
        rows, size = self.features.shape
        assert found.size == (size + 1 + rows) * width
        kernel, bias, probabilities = np.split(found, [size * width, (size + 1) * width])
        self.check_arrays(
            kernel.reshape(size, width), bias, probabilities.reshape(rows, width), width
        )

    def check_arrays(self, kernel, bias, probabilities, width=WAYS):
        np.testing.assert_allclose(kernel[:, :WAYS], self.adapted.kernel, **CLOSE)
        np.testing.assert_allclose(bias[:WAYS], self.adapted.bias, **CLOSE)
        np.testing.assert_allclose(probabilities[:, :WAYS], self.probabilities, **CLOSE)
        assert not probabilities[:, WAYS:].any()


@pytest.fixture
def task(bundle, tmp_path):
    return Task(bundle, tmp_path)


def call(*command, **options):
    process = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert process.returncode == 0, process.stderr[-3000:] + process.stdout[-1000:]


def kit(*names):
    """A file or folder that `make phones` gets."""
    if not (path := KIT.joinpath(*names)).exists():
        pytest.skip(f"no {'/'.join(names)} here: `make phones` gets it")
    return path


def compiler():
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    return "cc"


# In C: compiled and run with the real libraries, watched for leaks and for bounds.


def watched():
    """Options that end a program where it reads out of bounds or leaks, where the compiler can."""
    probe = subprocess.run(
        [compiler(), "-fsanitize=address,undefined", "-x", "c", "-", "-o", os.devnull],
        input="int main(void) { return 0; }",
        capture_output=True,
        text=True,
    )
    return ["-g", "-fsanitize=address,undefined"] if probe.returncode == 0 else []


def test_c_learns_with_litert(task, bundle, remark):
    library = Path(ai_edge_litert.__file__).with_name("libLiteRt.so")
    headers = task.folder / "litert/c"
    headers.mkdir(parents=True)
    for name in LITERT_HEADERS:
        (headers / f"litert_{name}.h").write_text('#include "litert.h"\n')
    program = task.folder / "program"
    call(compiler(), *STRICT, *watched(), "-I", task.folder, "-I", HERE / "c", "-I", C,
         HERE / "c/drive_litert.c", library, f"-Wl,-rpath,{library.parent}",
         "-o", program)  # fmt: skip
    given = [task.folder / name for name in ("images", "labels", "output")]
    pixels = task.images[0].size
    call(program, bundle / layout.LITERT_STATIC, *given, 6, WAYS, WIDTH, pixels, *task.numbers)
    task.check(given[-1], WIDTH)
    remark(f"examples/c/litert.c was compiled and run with {library.name} of ai-edge-litert")


def test_c_learns_with_onnx_runtime(task, bundle, remark):
    headers = kit("onnxruntime", "headers")
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    (task.folder / "libonnxruntime.so.1").symlink_to(library)  # the name that it gives itself
    program = task.folder / "program"
    call(compiler(), *STRICT, *watched(), "-I", headers, "-I", C, HERE / "c/drive_onnx.c",
         library, f"-Wl,-rpath,{task.folder}", "-o", program)  # fmt: skip
    given = [task.folder / name for name in ("images", "labels", "output")]
    call(program, bundle, *given, 6, WAYS, *task.images.shape[1:], *task.numbers)
    task.check(given[-1])
    remark(f"examples/c/onnx.c was compiled and run with {library.name} of onnxruntime")


# In Kotlin: compiled with ONNX Runtime's own Android classes, run on a JVM with those of 1.17.


@pytest.fixture(scope="session")
def kotlin(made_once):
    """Runs a program on a JVM: the sample without its activity, and `Drive.kt`."""
    if not shutil.which("java"):
        pytest.skip("no java")
    home, android = kit("kotlin"), kit("onnxruntime", "classes.jar")
    jvm = kit("onnxruntime-jvm")

    def compile_all(folder):
        files = [file for file in ANDROID.glob("*.kt") if "import android" not in file.read_text()]
        assert {file.stem for file in files} >= {"Bundle", "Pixels", "OnnxFewShot", "LitertFewShot"}
        call("java", "-cp", home / "lib/*", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
             "-kotlin-home", home, "-no-reflect", "-Werror", "-cp", android, "-d", folder / "out",
             *files, HERE / "android")  # fmt: skip

    out = made_once("kotlin-sample", compile_all) / "out"
    path = os.pathsep.join(map(str, (out, home / "lib/kotlin-stdlib.jar", jvm)))
    return "java", "-cp", path, "org.example.fewshot.DriveKt"


@pytest.mark.slow
def test_kotlin_learns_with_onnx_runtime(kotlin, task, bundle, remark):
    given = [task.folder / name for name in ("images", "labels", "output")]
    call(*kotlin, "learn", bundle, *given, WAYS, *task.numbers, *task.images.shape[1:])
    task.check(given[-1])
    remark("The Android sample was compiled, and its OnnxFewShot.kt run on a JVM")


# Grey and color, lying and standing, smaller and larger, and partly transparent.
PICTURES = [((97, 61), (28, 28, 1)), ((40, 200), (84, 84, 3)), ((300, 211), (64, 48, 3)),
            ((20, 20), (28, 28, 3))]  # fmt: skip


def make_picture(width, height):
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (height, width, 4), np.uint8)
    rgba[rng.random((height, width)) < 0.5, 3] = 255
    return rgba


@pytest.mark.slow
@pytest.mark.parametrize(("size", "shape"), PICTURES)
def test_kotlin_makes_the_bytes_of_python(kotlin, tmp_path, size, shape):
    rgba = make_picture(*size)
    colors = rgba.astype(np.uint32)
    argb = colors[..., 3] << 24 | colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]
    argb.astype("<u4").tofile(tmp_path / "argb")
    call(*kotlin, "pixels", tmp_path / "argb", tmp_path / "pixels", *size, *shape)
    pixels = np.fromfile(tmp_path / "pixels", np.uint8).reshape(shape)
    np.testing.assert_array_equal(pixels, to_array(Image.fromarray(rgba), shape))


# In Swift: compiled with declarations in place of the two runtimes.


@pytest.fixture(scope="session")
def swift(made_once):
    """A program that makes pixels, after all files that need no iPhone were compiled."""
    if not shutil.which("swiftc"):
        pytest.skip("no swiftc here: `apt-get install swiftlang` on Debian 13")

    def compile_all(folder):
        for module in ("OnnxRuntimeBindings", "TensorFlowLite"):
            call("swiftc", "-parse-as-library", "-emit-module", "-module-name", module,
                 "-emit-module-path", folder / f"{module}.swiftmodule",
                 HERE / f"ios/{module}.swift")  # fmt: skip
        sources = IOS.glob("*.swift")  # Photos.swift is empty without UIKit
        call("swiftc", "-typecheck", "-warnings-as-errors", "-I", folder, *sources)
        call("swiftc", "-O", "-o", folder / "drive", HERE / "ios/main.swift",
             IOS / "Pixels.swift", IOS / "Bundle.swift")  # fmt: skip

    return made_once("swift-sample", compile_all) / "drive"


@pytest.mark.slow
@pytest.mark.parametrize(("size", "shape"), PICTURES)
def test_swift_makes_the_bytes_of_python(swift, tmp_path, size, shape, remark):
    rgba = make_picture(*size)
    rgba.tofile(tmp_path / "rgba")
    call(swift, tmp_path / "rgba", tmp_path / "pixels", *size, *shape)
    pixels = np.fromfile(tmp_path / "pixels", np.uint8).reshape(shape)
    np.testing.assert_array_equal(pixels, to_array(Image.fromarray(rgba), shape))
    remark("The iOS sample was compiled, and its Pixels.swift run")


# Everywhere: the calls of a file are read, and made again on the bundle's own file.


@pytest.mark.parametrize(
    ("file", "engine", "value"),
    [
        (ANDROID / "OnnxFewShot.kt", run_onnx, kotlin_value),
        (ANDROID / "LitertFewShot.kt", run_litert, kotlin_value),
        (IOS / "OnnxFewShot.swift", run_onnx, swift_value),
        (IOS / "LitertFewShot.swift", run_litert, swift_value),
    ],
    ids=lambda part: part.name if isinstance(part, Path) else "",
)
def test_the_calls_of_a_file_are_those_of_the_bundle(task, bundle, file, engine, value):
    size, (n, height, width, channels) = task.features.shape[1], task.images.shape
    rate, steps = np.float32(task.runtime.inner_lr), np.int32(task.runtime.inner_steps)
    state = {
        "image": task.images, "Array(images.joined())": task.images,
        "labels": task.labels, "features": task.features, "ways": np.int32(WAYS),
        "[Int32(ways)]": np.int32(WAYS), "settings.innerLr": rate, "settings.innerSteps": steps,
        "[settings.innerLr]": rate, "[settings.innerSteps]": steps,
        "n": n, "image.height": height, "image.width": width, "image.channels": channels,
        "size": size, "labels.count": n, "features.count / size": n,
    }  # fmt: skip
    made = []
    for function, inputs, outputs, before in calls(file):
        arrays = {name: value(text, state, before) for name, text in inputs.items()}
        results = dict(zip(outputs, engine(bundle, function, arrays, outputs), strict=True))
        made.append(function)
        if function == "initial_head":
            head = results["kernel"], results["bias"]
            state |= dict(zip(("initial.kernel", "initial.bias"), head, strict=True))
            state |= dict(zip(("initial[0]", "initial[1]"), head, strict=True))
            state |= dict(zip(("kernel", "bias"), head, strict=True))
        elif function == "adapt":
            head = results["adapted_kernel"], results["adapted_bias"]
            state |= dict(zip(("head.kernel", "head.bias"), head, strict=True))
        elif function == "predict":
            task.check_arrays(*head, results["probabilities"])
        else:
            np.testing.assert_allclose(results["features"], task.features, **CLOSE)
    assert made[1:] == ["initial_head", "adapt", "predict"]


# The folder that Android Studio opens.


def test_the_android_folder_is_whole():
    app = ROOT / "examples/android/app"
    manifest = ElementTree.parse(app / "src/main/AndroidManifest.xml")
    name = "{http://schemas.android.com/apk/res/android}name"
    (activity,) = (node.get(name) for node in manifest.iter("activity"))
    assert f"class {activity.lstrip('.')} :" in (ANDROID / "MainActivity.kt").read_text()
    gradle = (app / "build.gradle.kts").read_text()
    for file in ANDROID.glob("*.kt"):
        package = re.search(r"^package (\S+)$", file.read_text(), re.M)[1]
        assert f'namespace = "{package}"' in gradle
    assert 'include(":app")' in (app.parent / "settings.gradle.kts").read_text()


def test_the_page_has_a_verdict_for_each_file():
    page = (ROOT / "docs/howto/phones.md").read_text()
    rows = re.findall(r"^\| (`.*) \| ((?:run|compiled|replayed|read|, )+) \|", page, re.M)
    listed = {Path(file).name for files, _ in rows for file in re.findall(r"`([^`]+)`", files)}
    sources = {file.name for folder in (ANDROID, IOS, C) for file in folder.iterdir()}
    assert listed == sources - {"Bundle.kt", "Bundle.swift"} | {"Package.swift"}
    for file in re.findall(r'--8<-- "(.*)"', page):
        assert Path(file).name in listed
