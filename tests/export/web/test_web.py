"""The process behind a web runtime: what happens when it is missing, fails, hangs or ends."""

import os
import signal

import numpy as np
import pytest

from anil_tf.export.runtime import open_bundle
from tests.export.web import onnx as web_runtime

pytestmark = pytest.mark.usefixtures("more_runtimes")


@pytest.fixture
def runtime(bundle):
    try:
        return open_bundle(bundle, "onnx_web_node")
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture
def without_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(web_runtime, "_PACKAGES", tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)


def test_without_node_it_says_what_is_missing(bundle, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ImportError, match="onnx_web_node cannot run here: .*no program `node`"):
        open_bundle(bundle, "onnx_web_node")


def test_without_chromium_it_says_what_is_missing(bundle, monkeypatch):
    monkeypatch.setattr(web_runtime, "_CHROMIUM", ("no-such-browser",))
    with pytest.raises(ImportError, match="no program `no-such-browser`"):
        open_bundle(bundle, "onnx_web_chromium")


def test_without_the_package_it_says_what_to_install(runtime, bundle, without_packages):
    with pytest.raises(ImportError, match="onnxruntime-web is not installed"):
        open_bundle(bundle, "onnx_web_node")


def test_a_failure_is_reported_and_the_next_call_answered(runtime):
    with pytest.raises(ChildProcessError, match="onnx_web_node: .*absent.onnx"):
        runtime._process.run("absent.onnx", "features", {})
    assert runtime.initial_head(3)[1].shape == (3,)


def test_a_call_without_an_answer_ends(runtime, monkeypatch):
    monkeypatch.setattr(web_runtime, "TIMEOUT", 0.5)
    os.kill(runtime._process._process.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError, match="onnx_web_node gave no answer within 0.5 seconds"):
        runtime.initial_head(3)
    with pytest.raises(ChildProcessError, match="The process of onnx_web_node ended"):
        runtime.initial_head(3)


def test_the_process_ends_with_the_runtime(runtime, bundle):
    process = open_bundle(bundle, "onnx_web_node")._process._process
    assert process.poll() is not None


def test_speed_is_by_the_clock_of_the_engine(runtime, images, monkeypatch):
    receive = runtime._process._receive
    clock = iter([900.0, 3.0, 5.0, 1.0])
    monkeypatch.setattr(
        runtime._process,
        "_receive",
        lambda request: receive(request) | {"milliseconds": next(clock)},
    )
    assert runtime.milliseconds("features", calls=3, image=images) == 3.0


def test_tensors_of_every_dtype_and_shape_arrive_as_they_are(runtime):
    for array in (
        np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1),
        np.int32(-(2**31)).reshape(()),
        np.array([np.nan, -np.inf, np.float32(1e-45)], np.float32),
        np.zeros((0, 5), np.float32),
    ):
        returned = web_runtime._decode(web_runtime._encode(array))
        assert returned.dtype == array.dtype
        np.testing.assert_array_equal(returned, array)


def test_a_page_reads_nothing_but_the_bundle(bundle):
    try:
        process = open_bundle(bundle, "onnx_web_chromium")._process
    except ImportError as error:
        pytest.skip(str(error))
    with pytest.raises(ChildProcessError, match="the bundle has no ../../etc/hostname"):
        process.run("../../etc/hostname", "features", {})
