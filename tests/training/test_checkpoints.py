"""Checkpoints: damage is seen, a full disk leaves what was there, SIGTERM loses nothing."""

import csv
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest

from anil_tf.datasets.folder import list_classes, read_classes, read_image
from anil_tf.support.files import clear_partial, replacing
from anil_tf.training import train as training
from anil_tf.training.checkpoints import KEEP, State, find_checkpoint, save_checkpoint
from anil_tf.training.recipe import read_recipe
from anil_tf.training.run import RunDirectory
from tools.reliability.small import SETTINGS, make_classes

QUICK = (
    "model.backbone.blocks=1",
    "training.steps=9",
    "training.checkpoint_every=3",
    "training.deterministic=false",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_classes(tmp_path_factory.mktemp("classes") / "data")


def recipe_of(*settings):
    return read_recipe("mini-imagenet-5way-1shot", [*SETTINGS, *QUICK, *settings])


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """A context in which no file can exceed a number of bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    return model


def test_a_checkpoint_keeps_where_the_run_stands(model, tmp_path):
    state = State(7, [{"epoch": 0, "loss": 0.1}], [[1.5, 2.0], 3.0], 4.25)
    path = save_checkpoint(model, state, tmp_path)
    assert find_checkpoint(tmp_path) == (path, state)


def test_the_newest_few_are_kept(model, tmp_path):
    paths = [save_checkpoint(model, State(step), tmp_path) for step in range(6)]
    assert sorted(tmp_path.iterdir()) == paths[-KEEP:]


def test_200_flipped_bytes_and_every_cut_are_seen_and_the_one_before_is_used(model, tmp_path):
    good = save_checkpoint(model, State(1), tmp_path)
    newest = save_checkpoint(model, State(2), tmp_path)
    content = newest.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(content), 200, replace=False):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        newest.write_bytes(flipped)
        assert find_checkpoint(tmp_path, writes=False)[0] == good
    for size in (0, 1, len(content) // 2, len(content) - 1):
        newest.write_bytes(content[:size])
        assert find_checkpoint(tmp_path, writes=False)[0] == good
    newest.write_bytes(content)
    assert find_checkpoint(tmp_path)[0] == newest


def test_a_damaged_checkpoint_is_put_aside(model, tmp_path, caplog):
    good, newest = (save_checkpoint(model, State(step), tmp_path) for step in (1, 2))
    newest.write_bytes(b"")
    assert find_checkpoint(tmp_path)[0] == good
    assert "is damaged" in caplog.text
    assert {path.suffix for path in tmp_path.iterdir()} == {".keras", ".damaged"}


def test_a_full_disk_names_the_checkpoint_and_leaves_the_one_before(model, tmp_path):
    good = save_checkpoint(model, State(1), tmp_path)
    with full_disk(2000), pytest.raises(OSError, match=r"step-00000002\.keras"):
        save_checkpoint(model, State(2), tmp_path)
    assert list(tmp_path.iterdir()) == [good]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    with pytest.raises(KeyError), replacing(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with replacing(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


def test_what_is_no_plain_file_is_written_straight(tmp_path):
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "link") as partial:
        partial.write_text("text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "text"


def test_what_a_killed_writer_left_is_cleared_and_nothing_of_the_users(tmp_path):
    theirs = {"model.keras", ".film.part", ".film.2024.part", ".notes.anil-part.txt", ".anil-part"}
    for name in (
        *theirs,
        ".model.123.anil-part.keras",
        ".recipe.7.anil-part.toml",
        ".head.4.anil-part",
    ):
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.1.anil-part").mkdir()
    clear_partial(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == theirs | {".folder.1.anil-part"}


def test_old_checkpoints_are_deleted_and_nothing_of_the_users(tmp_path):
    theirs = {"step-best.keras", "step-00000002.backup.keras", "notes.txt"}
    for name in (*theirs, "step-00000001.keras"):  # the last one by a killed process
        (tmp_path / name).write_text("")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    for step in range(2, 2 + KEEP + 2):
        save_checkpoint(model, State(step=step), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= theirs and len(names - theirs) == KEEP


class Terminated(training.Checkpoint):
    """Sends this process SIGTERM in the middle of the second epoch; and takes the data away."""

    data: Path

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if self.state.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            shutil.rmtree(self.data)


def test_sigterm_saves_within_an_epoch_and_the_run_goes_on_as_if_undisturbed(
    data, tmp_path, monkeypatch, capsys
):
    training.train(recipe_of(), tmp_path / "undisturbed", data)
    output, removed = tmp_path / "stopped", tmp_path / "removed"
    Terminated.data = Path(shutil.copytree(data, removed))
    with monkeypatch.context() as patch:
        patch.setattr(training, "Checkpoint", Terminated)
        with pytest.raises(SystemExit) as stopped:
            training.train(recipe_of(), output, removed)
    assert stopped.value.code == 143
    assert find_checkpoint(output / "checkpoints")[1].step == 4
    assert f"--output {output} --data-dir {removed} --resume" in capsys.readouterr().err

    training.train(recipe_of(), output, data, resume=True)
    histories, weights = [], []
    for run in (tmp_path / "undisturbed", output):
        with (run / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        histories.append(
            [[float(row[key]) for key in row if key != "wall_seconds"] for row in rows]
        )
        weights.append(keras.saving.load_model(run / "model.keras").backbone.get_weights())
    np.testing.assert_allclose(*histories, rtol=1e-5)
    whole, resumed = (RunDirectory(run).read_curve() for run in (tmp_path / "undisturbed", output))
    # After step 4 the first means are those of two steps, from which no point can be made.
    assert resumed["step"].tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    np.testing.assert_allclose(resumed["loss"], np.delete(whole["loss"], 4), rtol=1e-4)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_resuming_begins_a_run_that_is_not_there_yet(data, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)  # killed as it began
    training.train(recipe_of("training.steps=2"), tmp_path / "run", data, resume=True)
    assert (tmp_path / "run" / "model.keras").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="is not a run to resume"):
        training.train(recipe_of(), tmp_path / "other", data, resume=True)


def test_a_loss_that_is_not_finite_names_step_episodes_and_checkpoint(data, tmp_path):
    recipe = recipe_of("model.inner_lr=1e30", "model.learn_inner_lr=false", "seed=5")
    with pytest.raises(ValueError, match=r"at step 3: its episodes are 8 to 11.*seed 15.*none yet"):
        training.train(recipe, tmp_path / "run", data)
    assert not (tmp_path / "run" / "model.keras").exists()


class Poisons(training.Counter):
    """Makes a weight infinite at the end of the second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch == 1:
            weight = self.model.backbone.trainable_variables[0]
            weight.assign(np.full(weight.shape, np.inf))


def test_weights_that_are_not_finite_are_never_saved(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "Counter", Poisons)
    with pytest.raises(ValueError, match="are not finite at step 6: .*step-00000003"):
        training.train(recipe_of(), tmp_path / "run", data)
    found = find_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None and found[1].step == 3


def test_adaptation_that_diverges_is_warned_of_once(data, tmp_path, caplog):
    recipe = recipe_of("model.inner_lr=500", "training.steps=50", "training.checkpoint_every=25")
    training.train(recipe, tmp_path / "run", data)
    assert caplog.text.count("the inner loop diverges. Lower model.inner_lr") == 1


def test_a_read_only_output_is_named(data):
    if not Path("/sys/kernel").is_dir():
        pytest.skip("no read-only /sys")
    with pytest.raises(OSError, match="/sys/kernel/run"):
        training.train(recipe_of(), Path("/sys/kernel/run"), data)


def test_a_truncated_image_is_named(data, tmp_path):
    content = (data / "class00" / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.png is not an image that decodes"):
        read_image(tmp_path / "cut.png", (12, 12, 1))


def test_an_image_that_vanishes_is_named_and_an_empty_folder_refused(data, tmp_path):
    copy = Path(shutil.copytree(data, tmp_path / "copy"))
    listed = list_classes(copy)
    (copy / "class03" / "5.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"class03.5\.png"):
        read_classes(listed, (12, 12, 1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no class folders"):
        training.train(recipe_of(), tmp_path / "run", tmp_path / "empty")
    assert not (tmp_path / "run").exists()


def test_replicas_share_the_tasks_equally(data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="needs TF_CONFIG in the environment"):
        training.train(recipe_of(), tmp_path / "run", data, strategy="multiworker")
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": []}, "task": {}}')
    with pytest.raises(ValueError, match="TF_CONFIG must name the cluster"):
        training.train(recipe_of(), tmp_path / "run", data, strategy="multiworker")
    assert not (tmp_path / "run").exists()
