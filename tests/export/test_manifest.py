"""A bundle that was changed, cut short or made to reach outside its folder is refused."""

import json

import pytest

from anil_tf.export import layout
from anil_tf.export.manifest import read_manifest
from anil_tf.export.runtime import open_bundle
from tests.export.conftest import ACCEPTANCE


def edit(bundle, **changes):
    path = bundle / layout.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_file_but_the_manifest_is_listed(bundle):
    present = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert set(read_manifest(bundle).files) == present - {layout.MANIFEST}


def test_a_bundle_carries_the_thresholds_of_its_run(bundle):
    assert json.loads(read_manifest(bundle).acceptance.model_dump_json()) == ACCEPTANCE


@pytest.mark.parametrize(
    "change",
    [
        {"rates": [0.9, 0.5]},
        {"rates": [0.5, 1.5]},
        {"shots": [0, 5]},
        {"shots": []},
        {"thresholds": [[0.5, 0.4]]},
        {"thresholds": [[0.5], [0.4]]},
        {"thresholds": [[0.5, 0.4], [0.5, float("nan")]]},
        {"temperature": 1.0},
        {"temperature": [0.0, -1.0]},
        {"temperature": [1.0, float("inf")]},
    ],
)
def test_a_table_of_thresholds_must_be_whole(bundle, copy_of, change):
    copy = copy_of(bundle)
    edit(copy, acceptance=ACCEPTANCE | change)
    with pytest.raises(ValueError, match="not a valid manifest: acceptance"):
        read_manifest(copy)


def test_a_flipped_byte_is_noticed(bundle, copy_of):
    copy = copy_of(bundle)
    path = copy / "onnx" / "backbone.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"onnx/backbone\.onnx differs from its sha256"):
        open_bundle(copy)


def test_a_missing_file_is_named(bundle, copy_of):
    copy = copy_of(bundle)
    (copy / "onnx" / "predict.onnx").unlink()
    with pytest.raises(ValueError, match=r"onnx/predict\.onnx is missing"):
        read_manifest(copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "onnx/../../outside"])
def test_a_file_outside_the_bundle_is_refused(bundle, copy_of, name):
    copy = copy_of(bundle)
    (copy.parent / "outside").write_text("x")
    edit(copy, files={name: {"sha256": "0", "bytes": 1}})
    with pytest.raises(ValueError, match="names a file outside the bundle"):
        read_manifest(copy)


def test_a_link_out_of_the_bundle_is_refused(bundle, copy_of):
    copy = copy_of(bundle)
    (copy.parent / "outside").write_bytes((copy / "onnx" / "predict.onnx").read_bytes())
    (copy / "onnx" / "predict.onnx").unlink()
    (copy / "onnx" / "predict.onnx").symlink_to(copy.parent / "outside")
    with pytest.raises(ValueError, match="names a file outside the bundle"):
        read_manifest(copy)


def test_a_manifest_of_another_schema_is_refused(bundle, copy_of):
    copy = copy_of(bundle)
    edit(copy, schema_version=4)
    with pytest.raises(ValueError, match="schema_version"):
        read_manifest(copy)


def test_a_manifest_that_is_not_json_is_refused(bundle, copy_of):
    copy = copy_of(bundle)
    (copy / layout.MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="is not a valid manifest"):
        read_manifest(copy)


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a bundle"):
        read_manifest(tmp_path)
