"""Small versions of the scripts beside: a kill, a lost worker. See `docs/reliability.md`."""

import json

import pytest

from tests.reliability.kills import kill_and_resume
from tests.reliability.small import make_classes, run, same_run, train_command
from tests.reliability.workers import largest_difference, lose_a_worker, mirrored

SETTINGS = ["training.steps=40", "training.checkpoint_every=8", "model.head_init=per_class"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_classes(tmp_path_factory.mktemp("classes") / "data")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """A run of one process. Not to be changed."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = run(train_command(data, output, *SETTINGS))
    assert finished.returncode == 0, finished.stderr
    return output


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(data, undisturbed, tmp_path):
    kill_and_resume(data, tmp_path / "run", 1, SETTINGS, longest=0.5)
    assert same_run(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_two_workers_train_as_one_and_a_lost_one_ends_the_other(data, undisturbed, tmp_path):
    lost = lose_a_worker(data, tmp_path / "run", SETTINGS)
    assert lost["status"] == 2 and len(lost["error"]) == 1
    assert "Another worker is gone" in lost["error"][0]
    assert largest_difference(undisturbed, tmp_path / "run") < 1e-5
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["train"]["steps"] == 40


@pytest.mark.slow
def test_two_logical_devices_train_as_one(data, undisturbed, tmp_path):
    finished = run(mirrored(train_command(data, tmp_path / "run", *SETTINGS)))
    assert finished.returncode == 0, finished.stderr
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["devices"] == ["/device:CPU:0", "/device:CPU:1"]
    assert largest_difference(undisturbed, tmp_path / "run") < 1e-5
