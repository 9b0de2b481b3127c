"""Verification finds what is wrong, names it, and lets no export through that fails it."""

import json

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from anil_tf import closed_form
from anil_tf.cli import main
from anil_tf.export.bundle import export_bundle
from anil_tf.export.manifest import Manifest
from anil_tf.export.runtime import open_bundle
from anil_tf.export.verify import (
    cases,
    check,
    checks,
    format_parity,
    run_cases,
    verify_bundle,
)
from anil_tf.export.verify.cases import BOUND, list_cases, measure
from anil_tf.export.verify.episodes import ReferenceEpisodes, choose_episodes


def failing(checks):
    return {check.check for check in checks if not check.ok}


def test_a_per_class_export_agrees_too(per_class_bundle):
    parity, _ = verify_bundle(per_class_bundle)
    assert all(runtime.ok for runtime in parity)


def test_a_bundle_of_schema_1_whose_rows_count_alike_still_works(
    run, bundle, copy_of, tmp_path, monkeypatch
):
    def every_row_alike(targets):
        counted = tf.reduce_sum(targets, axis=1, keepdims=True)
        return counted / tf.maximum(tf.reduce_sum(counted), 1.0)

    old, new = tmp_path / "old", copy_of(bundle)
    with monkeypatch.context() as patch:
        patch.setattr(closed_form, "weigh_rows", every_row_alike)
        patch.setattr(cases.reference.adapt, "__defaults__", (np.float64, False))
        patch.setattr(Manifest, "balanced", False)
        export_bundle(run, old)
    for bundle in (old, new):
        path = bundle / "manifest.json"
        manifest = json.loads(path.read_text())
        assert manifest["schema_version"] == 3
        path.write_text(json.dumps(manifest | {"schema_version": 1}))

    def unequal(bundle):
        parity, _ = verify_bundle(bundle)
        return {p.runtime: failing(p.checks) for p in parity}

    assert not any(unequal(old).values())
    # With the wrong schema the same check would fail: it distinguishes the two.
    assert set(map(frozenset, unequal(new).values())) == {frozenset({"adapt, unequal classes"})}


def test_features_that_differ_are_found(bundle):
    episodes = ReferenceEpisodes.read(bundle)
    moved = episodes._replace(support_features=episodes.support_features * (1 + 1e-4))
    assert failing(run_cases(open_bundle(bundle), moved)) == {"features"}


def test_a_wrong_learning_rate_is_found(bundle, monkeypatch):
    runtime = open_bundle(bundle)
    run = runtime.run

    def with_a_higher_rate(signature, **inputs):
        if signature == "adapt":
            inputs["learning_rate"] *= 1.01
        return run(signature, **inputs)

    monkeypatch.setattr(runtime, "run", with_a_higher_rate)
    found = failing(run_cases(runtime, ReferenceEpisodes.read(bundle)))
    assert found == {
        "adapt, 5 steps",
        "adapt, 50 steps",
        "adapt, padding rows",
        "adapt, unequal classes",
    }


def test_one_failure_does_not_hide_the_other_checks(bundle, monkeypatch):
    runtime = open_bundle(bundle)
    run = runtime.run

    def without_predict(signature, **inputs):
        if signature == "predict":
            raise RuntimeError("no such operation")
        return run(signature, **inputs)

    monkeypatch.setattr(runtime, "run", without_predict)
    parity = check(runtime, ReferenceEpisodes.read(bundle))
    assert len(parity.checks) == 10 and failing(parity.checks) == {"predict"}
    assert parity.accuracy is None and not parity.milliseconds
    shown = format_parity([parity])
    assert "FAILED onnx, predict: RuntimeError: no such operation" in shown


def test_accuracy_size_and_speed_are_measured(bundle):
    runtime, episodes = open_bundle(bundle), ReferenceEpisodes.read(bundle)
    parity = check(runtime, episodes)
    names = ("backbone", "initial_head", "adapt", "predict")
    assert parity.bytes == sum((bundle / "onnx" / f"{n}.onnx").stat().st_size for n in names)
    assert set(parity.milliseconds) == {"features", "adapt 10", "adapt 100", "predict"}
    assert all(value > 0 for value in parity.milliseconds.values())
    runtime.inner_lr, runtime.inner_steps = 0.5, 300  # to learn the support set by heart
    taught = episodes._replace(
        query_image=episodes.support_image, query_labels=episodes.support_labels
    )
    assert check(runtime, taught).accuracy > 0.8
    turned = taught._replace(query_labels=(taught.query_labels + 1) % 5)
    assert check(runtime, turned).accuracy < 0.2


def test_a_runtime_that_is_not_installed_is_skipped_with_the_reason(bundle, monkeypatch):
    missing = checks.RUNTIMES["onnx"]._replace(
        target="anil_tf.export.no_such_module:Missing", install="pip install some-package"
    )
    monkeypatch.setitem(checks.RUNTIMES, "onnx", missing)
    two = {name: checks.RUNTIMES[name] for name in ("onnx", "saved_model")}
    monkeypatch.setattr(checks, "RUNTIMES", two)
    parity, skipped = verify_bundle(bundle)
    assert [runtime.runtime for runtime in parity] == ["saved_model"]
    assert skipped["onnx"] == "The onnx runtime needs: pip install some-package"


def test_evaluate_says_in_one_line_what_to_install(bundle, monkeypatch):
    missing = checks.RUNTIMES["onnx"]._replace(
        target="anil_tf.export.no_such_module:Missing", install="pip install some-package"
    )
    monkeypatch.setitem(checks.RUNTIMES, "onnx", missing)
    result = CliRunner().invoke(main, ["evaluate", str(bundle), "--runtime", "onnx"])
    assert result.exit_code == 2
    *_, line = result.stderr.splitlines()
    assert line == "Error: The onnx runtime needs: pip install some-package"


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"other": np.ones(2)}, "outputs are .* instead of"),
        ({"x": np.ones(3)}, r"x has shape \(3,\) instead of \(2,\)"),
        ({"x": np.array([1.0, np.nan])}, "not finite"),
    ],
)
def test_names_and_shapes_come_before_values(outputs, message):
    with pytest.raises(ValueError, match=message):
        measure(outputs, ({"x": np.ones(2)},))


def test_a_difference_is_relative_to_the_largest_value_of_its_group():
    expected = ({"bias": np.array([0.0]), "loss": np.array(4.0)}, {"kernel": np.array([2.0])})
    outputs = {"bias": np.array([0.1]), "loss": np.array(4.0), "kernel": np.array([2.0])}
    assert measure(outputs, expected) == pytest.approx(0.1 / 4)


def test_adaptation_that_diverges_is_not_held_to_more_than_float32_can_do(bundle):
    episodes = ReferenceEpisodes.read(bundle)
    far = list_cases(episodes, rate=100.0, steps=5)
    assert max(case.bound for case in far if case.check == "adapt, 50 steps") > BOUND
    near = list_cases(episodes, rate=0.01, steps=5)
    assert {case.bound for case in near if case.check == "adapt, 5 steps"} == {BOUND}


def test_where_rounding_decides_too_much_adapting_for_long_is_not_compared(bundle, monkeypatch):
    monkeypatch.setattr(cases, "CHAOS", 1e-4)
    checks = [case.check for case in list_cases(ReferenceEpisodes.read(bundle), rate=20.0, steps=5)]
    assert "adapt, 5 steps" in checks and "adapt, 50 steps" not in checks


def test_episodes_are_disjoint_and_hold_every_class_alike():
    label = np.repeat(np.arange(10), 6)
    episodes = choose_episodes(label, ways=5)
    rows = np.concatenate([episodes.support, episodes.query], axis=1)
    assert len(np.unique(rows)) == rows.size == 40
    for support, labels in zip(episodes.support, episodes.labels, strict=True):
        assert np.unique(labels, return_counts=True)[1].tolist() == [2] * 5
        assert len({(label[row], one) for row, one in zip(support, labels, strict=True)}) == 5
    for support, labels, query, query_labels in zip(*episodes[:4], strict=True):
        named = dict(zip(label[support], labels, strict=True))
        assert [named[label[row]] for row in query] == query_labels.tolist()


def test_classes_with_too_few_examples_are_passed_over():
    episodes = choose_episodes(np.array([0] * 4 + [1] * 3 + [2] * 4), ways=5)
    assert episodes.ways == 2 and set(episodes.support.ravel()) == {0, 1, 7, 8}


def test_one_class_is_too_few():
    with pytest.raises(ValueError, match="needs two classes of 4 examples. Received: 1"):
        choose_episodes(np.zeros(10), ways=5)
