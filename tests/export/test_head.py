"""Heads on disk: they come back as they were, grow exactly, and serve only their own bundle."""

import numpy as np
import pytest

from anil_tf.export.head import Head, fit_head, read_head
from anil_tf.export.manifest import read_manifest
from anil_tf.export.runtime import open_bundle

CLASSES = {"ä": 3, "b c": 1, "d": 2, "e": 1}


@pytest.fixture
def manifest(bundle):
    return read_manifest(bundle)


@pytest.fixture(scope="module")
def runtime(bundle):
    return open_bundle(bundle)


@pytest.fixture(scope="module")
def support(runtime):
    """Features of some classes, with one to three images each."""
    rng = np.random.default_rng(0)
    size = runtime.manifest.feature_size
    return {
        name: rng.normal(0, 1, (shots, size)).astype(np.float32) for name, shots in CLASSES.items()
    }


def make_head(manifest, size=None, backbone=None):
    size = size or manifest.feature_size
    rng = np.random.default_rng(0)
    return Head(
        rng.normal(size=(size, 2)).astype(np.float32),
        np.ones(2, np.float32),
        ("ä", "b c"),
        rng.normal(size=(3, size)).astype(np.float32),
        np.array([0, 0, 1], np.int32),
        backbone or manifest.backbone_sha256,
    )


def assert_same(head, other):
    assert (head.names, head.backbone_sha256) == (other.names, other.backbone_sha256)
    for name in ("kernel", "bias", "support_features", "support_labels"):
        ours, theirs = getattr(head, name), getattr(other, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_a_head_comes_back_as_it_was(manifest, tmp_path):
    head = make_head(manifest)
    head.write(tmp_path / "head.npz")
    assert_same(read_head(tmp_path / "head.npz", manifest), head)


def test_a_head_is_fitted_to_its_rows(runtime, support):
    head, adapted = fit_head(runtime, support)
    assert head.names == tuple(sorted(CLASSES))
    labels = np.repeat(np.arange(4), [CLASSES[name] for name in head.names])
    features = np.concatenate([support[name] for name in head.names])
    expected = runtime.adapt(
        features, labels, *runtime.initial_head(4), runtime.inner_lr, runtime.inner_steps
    )
    np.testing.assert_array_equal(head.kernel, expected.kernel)
    np.testing.assert_array_equal(head.bias, expected.bias)
    assert adapted.final_loss == expected.final_loss < adapted.initial_loss


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_added_later_is_as_if_learned_with_the_others(
    runtime, manifest, support, tmp_path, name
):
    first = {key: rows for key, rows in support.items() if key != name}
    fit_head(runtime, first)[0].write(tmp_path / "head.npz")
    saved = read_head(tmp_path / "head.npz", manifest)
    grown, _ = fit_head(runtime, saved.support | {name: support[name]})
    assert_same(grown, fit_head(runtime, support)[0])


def test_the_order_of_learning_does_not_matter_to_a_per_class_head(per_class_bundle, support):
    runtime = open_bundle(per_class_bundle)
    first = {name: support[name] for name in ("e", "b c")}
    grown, _ = fit_head(runtime, fit_head(runtime, first)[0].support | support)
    assert_same(grown, fit_head(runtime, support)[0])


def test_a_class_taken_away_leaves_nothing(runtime, support):
    head, _ = fit_head(runtime, support)
    rest = {name: rows for name, rows in head.support.items() if name != "d"}
    shrunk, _ = fit_head(runtime, rest)
    assert shrunk.names == ("b c", "e", "ä")
    assert shrunk.kernel.shape[1] == 3 and len(shrunk.support_features) == 5
    gone = support["d"][:, np.newaxis]
    assert not (shrunk.support_features[np.newaxis] == gone).all(axis=-1).any()


def test_one_class_is_too_few(runtime, support):
    with pytest.raises(ValueError, match="ways must be at least 2"):
        fit_head(runtime, {"d": support["d"]})


def test_a_rate_that_diverges_is_refused(runtime, support):
    with pytest.raises(ValueError, match="the loss is nan .* Lower the learning rate"):
        fit_head(runtime, support, learning_rate=3e38, steps=20)


def test_features_that_are_not_finite_are_refused(runtime, support):
    with pytest.raises(ValueError, match="the loss is nan .* features .* are not finite"):
        fit_head(runtime, support | {"d": np.full_like(support["d"], np.nan)})


@pytest.mark.parametrize("wrong", [{"backbone": "0" * 64}, {"size": 3}])
def test_a_head_of_another_backbone_is_refused(manifest, tmp_path, wrong):
    make_head(manifest, **wrong).write(tmp_path / "head.npz")
    with pytest.raises(ValueError, match="head.npz was made with another bundle.*'tiny'"):
        read_head(tmp_path / "head.npz", manifest)


def stored_arrays(manifest):
    """The arrays of a head's file, to be changed."""
    arrays = make_head(manifest)._asdict()
    return {name: value for name, value in arrays.items() if value is not None}


def test_a_head_without_rows_predicts_and_cannot_grow(manifest, tmp_path):
    arrays = stored_arrays(manifest) | {"names": np.array(["a", "b"])}
    del arrays["support_features"], arrays["support_labels"]
    np.savez(tmp_path / "head.npz", **arrays)
    head = read_head(tmp_path / "head.npz", manifest)
    np.testing.assert_array_equal(head.kernel, arrays["kernel"])
    assert [len(rows) for rows in head.support.values()] == [0, 0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": np.array(["a", "b", "c"])}, r"kernel must be float32 \[64, 3\]"),
        ({"names": np.array(["a", "a"])}, "two classes or more, each once"),
        ({"bias": np.ones(3, np.float32)}, r"bias must be float32 \[2\]"),
        ({"bias": np.array([0, np.inf], np.float32)}, "bias has values that are not finite"),
        ({"kernel": np.full((64, 2), np.nan, np.float32)}, "kernel has values that are not"),
        ({"kernel": np.zeros((64, 2), complex)}, "kernel must be float32"),
        ({"support_labels": np.array([0, 1], np.int32)}, "must agree in rows"),
        ({"support_labels": np.array([0, 1, 2], np.int32)}, r"must lie in 0..1. Received: 0..2"),
        ({"support_labels": np.array([0, 1, -1], np.int32)}, r"must lie in 0..1. Received: -1..1"),
        ({"support_labels": np.zeros(3)}, "support_labels must be int32"),
        ({"support_features": np.zeros((3, 9), np.float32)}, "support_features must be float32"),
        (
            {"support_features": np.full((3, 64), np.inf, np.float32)},
            "support_features has values that are not finite",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(manifest, tmp_path, wrong, message):
    arrays = stored_arrays(manifest) | {"names": np.array(["a", "b"])} | wrong
    np.savez(tmp_path / "head.npz", **arrays)
    with pytest.raises(ValueError, match=f"head.npz is damaged: .*{message}"):
        read_head(tmp_path / "head.npz", manifest)


def test_more_classes_than_a_per_class_bundle_has_are_refused(per_class_bundle, tmp_path):
    manifest = read_manifest(per_class_bundle)
    arrays = stored_arrays(manifest) | {
        "kernel": np.zeros((manifest.feature_size, 6), np.float32),
        "bias": np.zeros(6, np.float32),
        "names": np.array(list("abcdef")),
    }
    np.savez(tmp_path / "head.npz", **arrays)
    with pytest.raises(ValueError, match="each of 5 classes. Received: ways=6"):
        read_head(tmp_path / "head.npz", manifest)


@pytest.mark.parametrize("content", [b"", b"not a head", b"PK\x03\x04"])
def test_a_file_that_is_no_head_is_refused(manifest, tmp_path, content):
    (tmp_path / "head.npz").write_bytes(content)
    with pytest.raises(ValueError, match="head.npz is not a head"):
        read_head(tmp_path / "head.npz", manifest)


def test_a_head_cut_short_is_refused(manifest, tmp_path):
    path = tmp_path / "head.npz"
    make_head(manifest).write(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="head.npz is not a head"):
        read_head(path, manifest)


def test_a_flipped_bit_in_a_head_is_noticed(manifest, tmp_path):
    path = tmp_path / "head.npz"
    make_head(manifest).write(path)
    data = bytearray(path.read_bytes())
    data[300] ^= 1  # within the kernel, whose checksum the file holds
    path.write_bytes(data)
    with pytest.raises(ValueError, match="head.npz is not a head"):
        read_head(path, manifest)


def test_pickled_objects_are_refused(manifest, tmp_path):
    head = stored_arrays(manifest) | {"names": np.array([{}, {}], object)}
    np.savez(tmp_path / "head.npz", **head)
    with pytest.raises(ValueError, match="head.npz is not a head"):
        read_head(tmp_path / "head.npz", manifest)


def test_other_arrays_are_refused(manifest, tmp_path):
    np.savez(tmp_path / "head.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="head.npz is not a head"):
        read_head(tmp_path / "head.npz", manifest)


def test_a_single_array_is_refused(manifest, tmp_path):
    with (tmp_path / "head.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="head.npz is not a head"):
        read_head(tmp_path / "head.npz", manifest)
