"""Heads on disk: they come back as they were, and only for the bundle that made them."""

import numpy as np
import pytest

from anil_tf.export.head import Head, read_head
from anil_tf.export.manifest import read_manifest


@pytest.fixture
def manifest(bundle):
    return read_manifest(bundle)


def make_head(manifest, size=None, backbone=None):
    size = size or manifest.feature_size
    kernel = np.random.default_rng(0).normal(size=(size, 2)).astype(np.float32)
    names = ("ä", "b c")
    return Head(kernel, np.ones(2, np.float32), names, backbone or manifest.backbone_sha256)


def test_a_head_comes_back_as_it_was(manifest, tmp_path):
    head = make_head(manifest)
    head.write(tmp_path / "head.npz")
    back = read_head(tmp_path / "head.npz", manifest)
    np.testing.assert_array_equal(back.kernel, head.kernel)
    np.testing.assert_array_equal(back.bias, head.bias)
    assert back[2:] == head[2:]


@pytest.mark.parametrize("wrong", [{"backbone": "0" * 64}, {"size": 3}])
def test_a_head_of_another_backbone_is_refused(manifest, tmp_path, wrong):
    make_head(manifest, **wrong).write(tmp_path / "head.npz")
    with pytest.raises(ValueError, match="head.npz was made with another bundle.*'tiny'"):
        read_head(tmp_path / "head.npz", manifest)


@pytest.mark.parametrize("content", [b"", b"not a head", b"PK\x03\x04"])
def test_a_file_that_is_no_head_is_refused(manifest, tmp_path, content):
    (tmp_path / "head.npz").write_bytes(content)
    with pytest.raises(ValueError, match="head.npz is not a head"):
        read_head(tmp_path / "head.npz", manifest)


def test_pickled_objects_are_refused(manifest, tmp_path):
    head = make_head(manifest)._asdict() | {"names": np.array([{}, {}], object)}
    np.savez(tmp_path / "head.npz", **head)
    with pytest.raises(ValueError, match="head.npz is not a head"):
        read_head(tmp_path / "head.npz", manifest)


def test_other_arrays_are_refused(manifest, tmp_path):
    np.savez(tmp_path / "head.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="head.npz is not a head"):
        read_head(tmp_path / "head.npz", manifest)
