"""Untrusted files: no code in them runs, no path leaves their folder, no size is believed."""

import io
import json
import os
import resource
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest

from anil_tf.export.bundle import export_bundle
from anil_tf.export.runtime.onnx import refuse_external_data
from anil_tf.saving import load_model
from anil_tf.support.untrusted import read_arrays
from anil_tf.training.recipe import DataTable, read_recipe
from tools.reliability.fuzz import fuzz


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "."), content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999,)}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n(S'id'\ntR."),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}", b"abcd"),
        npy("{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}", b"\xff\xff\xff\xff"),
        b"no array",
    ],
    ids=["huge", "pickle", "negative", "no text", "damaged"],
)
def test_an_array_that_lies_is_refused(tmp_path, content):
    path = archive(tmp_path / "head.npz", kernel__npy=content)
    with pytest.raises(ValueError, match=r"head\.npz is no archive of arrays"):
        read_arrays(path)


def test_arrays_come_back_as_they_were_written(tmp_path):
    arrays = {
        "a": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "names": np.array(["x", "letter"]),
        "scalar": np.array(3),
        "none": np.zeros((0, 4), np.int32),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    for name, array in read_arrays(tmp_path / "a.npz").items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", b"\0" * 2**20)
    with pytest.raises(ValueError, match="unpacked it has 1048576 bytes, more than 1000"):
        read_arrays(tmp_path / "a.npz", most=1000)


def test_a_member_that_no_run_has_is_refused(run, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes((run / "model.keras").read_bytes())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("../outside", "")
    with pytest.raises(ValueError, match=r"unexpected member '\.\./outside'"):
        load_model(path)


def test_a_model_with_code_is_refused(tmp_path):
    layer = keras.layers.Lambda(lambda x: x)
    keras.Sequential([keras.Input((2,)), layer]).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"model\.keras is not a model that can be loaded"):
        load_model(tmp_path / "model.keras")


def test_onnx_weights_in_other_files_are_refused(bundle):
    file = bundle / "onnx" / "backbone.onnx"
    refuse_external_data(file.read_bytes(), file.name)
    graph = onnx.load(file)
    tensor = graph.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    with pytest.raises(ValueError, match="keeps weights in other files"):
        refuse_external_data(graph.SerializeToString(), file.name)


@pytest.mark.parametrize("name", ["someone:data", "hf:org/data", "../data", "/data", "Omniglot"])
def test_a_tfds_name_runs_no_code_and_stays_in_its_folder(name):
    with pytest.raises(ValueError, match="name"):
        DataTable(source="tfds", name=name, image_shape=(28, 28, 1))


def test_a_recipe_that_is_nested_or_large_without_end_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    for text in ("a = " + "[" * 5000, "a = 1\n#" + "x" * 2**24):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"nested too deeply|larger than 16 MB|not TOML"):
            read_recipe(path)


def test_a_full_disk_leaves_no_bundle(run, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for target in ("onnx", "saved_model"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        try:
            with pytest.raises(OSError, match=str(tmp_path / "bundle")):
                export_bundle(run, tmp_path / "bundle", [target])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert os.listdir(tmp_path) == []


@pytest.mark.timeout(method="thread")  # the fuzzer times each input by the alarm
def test_hostile_files_are_answered_or_refused(bundle):
    counts = fuzz(bundle, examples=60)
    assert counts["inputs"] >= 7 * 60
    assert json.dumps(counts) and counts["slowest_seconds"] < 5


def test_any_bytes_are_no_archive(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(io.BytesIO(b"PK\x03\x04").getvalue())
    with pytest.raises(ValueError, match="no archive of arrays"):
        read_arrays(path)
