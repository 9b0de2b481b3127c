"""`anil export`, `verify`, `adapt` and `predict`, as a user types them."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anil_tf.cli import main


def anil(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of pictures that differ in brightness, in sizes other than the model's."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, brightness in {"dark": 20, "grey": 120, "light": 230}.items():
        (folder / name).mkdir()
        for index in range(3):
            pixels = rng.normal(brightness, 8, (40, 36, 3)).clip(0, 255).astype(np.uint8)
            suffix = "jpg" if index else "png"
            Image.fromarray(pixels).save(folder / name / f"{index}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def head(bundle, pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("heads") / "head.npz"
    result = anil("adapt", bundle, "--support", pictures, "--output", path, "--steps", 200)
    assert result.exit_code == 0, result.output
    return path


def assert_refused(result, *fragments):
    assert result.exit_code == 2, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert all(fragment in last for fragment in fragments), last


def test_export_writes_a_bundle_and_its_figures(run, tmp_path):
    figures = tmp_path / "figures.json"
    result = anil(
        "export", run, "--output", tmp_path / "b", "--targets", "onnx", "--int8", "--json", figures
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "b" / "manifest.json").is_file()
    assert (tmp_path / "b" / "onnx" / "backbone_int8.onnx").is_file()
    assert json.loads(figures.read_text())["parity"]


def test_export_warns_in_one_line_when_int8_misses_its_bound(run, tmp_path, monkeypatch):
    from anil_tf.export.verify import checks

    monkeypatch.setattr(checks, "INT8_BOUND", 1e-9)
    result = anil("export", run, "--output", tmp_path / "b", "--targets", "onnx", "--int8")
    assert result.exit_code == 0, result.output
    warning, *_ = result.stderr.strip().splitlines()
    assert warning.startswith("Warning: onnx/backbone_int8.onnx is left out of the bundle: its ")
    assert anil("verify", tmp_path / "b").exit_code == 0


def test_verify_prints_a_line_a_runtime_and_writes_every_check(bundle, tmp_path):
    result = anil("verify", bundle, "--json", tmp_path / "checks.json")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "checks.json").read_text())
    lines = result.stdout.splitlines()[2:][: len(written["parity"])]  # then those left out
    assert [line.split()[0] for line in lines] == [p["runtime"] for p in written["parity"]]
    assert all(line.endswith("ok") for line in lines)
    assert all(check["ok"] for parity in written["parity"] for check in parity["checks"])


def test_verify_exits_with_1_when_a_check_fails(bundle, tmp_path):
    from anil_tf.export.manifest import list_files, read_manifest
    from anil_tf.export.verify.episodes import ReferenceEpisodes

    copy = shutil.copytree(bundle, tmp_path / "copy")
    episodes = ReferenceEpisodes.read(copy)
    episodes._replace(query_features=episodes.query_features + 1.0).write(copy)
    read_manifest(bundle).model_copy(update={"files": list_files(copy)}).write(copy)
    result = anil("verify", copy)
    assert result.exit_code == 1
    assert "FAILED" in result.output


def test_adapt_learns_classes_that_predict_then_names(bundle, pictures, head, tmp_path):
    figures = tmp_path / "predictions.json"
    files = [pictures / name / "2.jpg" for name in ("dark", "grey", "light")]
    result = anil("predict", bundle, "--head", head, *files, "--json", figures)
    assert result.exit_code == 0, result.output
    predictions = json.loads(figures.read_text())
    assert [next(iter(p["probabilities"])) for p in predictions] == ["dark", "grey", "light"]
    assert all(sum(p["probabilities"].values()) == pytest.approx(1) for p in predictions)
    assert [line.split(": ")[0] for line in result.stdout.splitlines()] == list(map(str, files))
    assert result.stderr.startswith(f"Next: anil adapt {bundle} --from {head} --support ")


def test_predict_says_none_of_these_where_a_share_is_to_be_accepted(
    bundle, pictures, head, tmp_path
):
    figures = tmp_path / "predictions.json"
    picture = pictures / "dark" / "0.png"
    predict = ["predict", bundle, "--head", head, picture, "--json", figures]
    assert anil(*predict, "--accept", "0.5").stdout == f"{picture}: none of these\n"
    (prediction,) = json.loads(figures.read_text())
    assert prediction["probabilities"]["none of these"] == 1
    plain, accepted = anil(*predict), anil(*predict, "--accept", "0.99")
    assert accepted.stdout == plain.stdout and "none" not in plain.stdout
    assert_refused(anil(*predict, "--accept", "0.1"), "accept must lie in 0.5..0.99")


@pytest.mark.filterwarnings("default:Left out")
def test_negatives_choose_what_predict_accepts(bundle, pictures, head, tmp_path):
    mixed = shutil.copytree(pictures, tmp_path / "mixed")
    (mixed / "dark" / "notes.txt").write_text("no picture")
    unlike = tmp_path / "unlike.npz"
    words = ["adapt", bundle, "--from", head, "--negatives", mixed, "--output", unlike]
    result = anil(*words)
    assert "Left out 1 file" in result.stderr and "notes.txt" in result.stderr
    assert "9 images of none of the classes: 62% of the images" in result.stdout, result.output
    picture = pictures / "dark" / "0.png"
    predict = ["predict", bundle, "--head", unlike, picture]
    assert anil(*predict).stdout == f"{picture}: none of these\n"
    assert "none" not in anil(*predict, "--accept", "0.99").stdout
    assert_refused(anil(*words[:5], tmp_path / "nothing", *words[6:]), "nothing")
    (tmp_path / "empty").mkdir()
    assert_refused(anil(*words[:5], tmp_path / "empty", *words[6:]), "empty holds no image")


def test_adapt_reports_classes_counts_and_losses(bundle, pictures, tmp_path):
    figures = tmp_path / "figures.json"
    output = tmp_path / "head.npz"
    result = anil("adapt", bundle, "--support", pictures, "--output", output, "--json", figures)
    assert result.exit_code == 0, result.output
    assert "dark: 3 images" in result.stdout
    written = json.loads(figures.read_text())
    assert written["classes"] == {"dark": 3, "grey": 3, "light": 3}
    assert written["rows_used"] == 9
    assert written["final_loss"] < written["initial_loss"]
    assert result.stderr == f"Next: anil predict {bundle} --head {output} IMAGE...\n"


@pytest.fixture
def folders(pictures, tmp_path):
    """The classes in two folders: `dark` and `grey`, then `light`."""
    shutil.copytree(pictures, tmp_path / "two", ignore=shutil.ignore_patterns("light"))
    shutil.copytree(pictures / "light", tmp_path / "third" / "light")
    return tmp_path / "two", tmp_path / "third"


def read(path):
    with np.load(path) as arrays:
        return dict(arrays)


def assert_same_head(path, other):
    ours, theirs = read(path), read(other)
    assert ours.keys() == theirs.keys()
    assert ours["names"].tolist() == theirs["names"].tolist()
    for name in ("kernel", "bias", "support_features", "support_labels"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-6)


def test_a_class_added_later_is_as_if_learned_at_once(bundle, pictures, folders, tmp_path):
    two, third = folders
    first, grown, once = (tmp_path / f"{name}.npz" for name in ("first", "grown", "once"))
    assert anil("adapt", bundle, "--support", two, "--output", first).exit_code == 0
    shutil.rmtree(two)  # the images of the first classes are gone
    result = anil("adapt", bundle, "--from", first, "--support", third, "--output", grown)
    assert result.exit_code == 0, result.output
    assert [line.split(":")[0] for line in result.stdout.splitlines()[:3]] == [
        "dark",
        "grey",
        "light",
    ]
    assert anil("adapt", bundle, "--support", pictures, "--output", once).exit_code == 0
    assert_same_head(grown, once)


def test_a_class_in_both_is_learned_from_its_new_images(bundle, pictures, head, tmp_path):
    shutil.copytree(pictures / "light", tmp_path / "new" / "dark")
    grown = tmp_path / "grown.npz"
    result = anil("adapt", bundle, "--from", head, "--support", tmp_path / "new", "--output", grown)
    assert result.exit_code == 0, result.output
    before, after = read(head), read(grown)
    assert after["names"].tolist() == before["names"].tolist() == ["dark", "grey", "light"]
    rows = {name: after["support_features"][after["support_labels"] == name] for name in range(3)}
    np.testing.assert_allclose(rows[0], rows[2], atol=1e-5)


def test_a_class_is_forgotten_without_a_trace(bundle, pictures, folders, tmp_path):
    full, rest, two = (tmp_path / f"{name}.npz" for name in ("full", "rest", "two"))
    assert anil("adapt", bundle, "--support", pictures, "--output", full).exit_code == 0
    result = anil("adapt", bundle, "--from", full, "--remove", "light", "--output", rest)
    assert result.exit_code == 0, result.output
    assert anil("adapt", bundle, "--support", folders[0], "--output", two).exit_code == 0
    assert_same_head(rest, two)


def test_what_cannot_be_added_or_removed_is_refused(bundle, pictures, head, tmp_path):
    def adapt(*options):
        return anil("adapt", bundle, "--output", tmp_path / "out.npz", *options)

    assert_refused(adapt(), "--support DIR")
    assert_refused(adapt("--from", head), "--support DIR")
    assert_refused(adapt("--support", pictures, "--remove", "dark"), "--from HEAD")
    assert_refused(adapt("--from", head, "--remove", "red"), "no class 'red'", "'dark', 'grey'")
    without = {**read(head)}
    del without["support_features"], without["support_labels"]
    np.savez(tmp_path / "bare.npz", **without)
    refused = adapt("--from", tmp_path / "bare.npz", "--support", pictures)
    assert_refused(refused, "bare.npz", "keeps no features of 'dark'")
    two = ["--remove", "dark", "--remove", "grey"]
    assert_refused(adapt("--from", head, *two), "at least 2 classes", "['light']")
    assert not (tmp_path / "out.npz").exists()


def test_a_rate_that_diverges_is_refused(bundle, pictures, tmp_path):
    output = tmp_path / "head.npz"
    result = anil(
        "adapt", bundle, "--support", pictures, "--output", output, "--learning-rate", "3e38"
    )
    assert_refused(result, "the loss is nan", "Lower the learning rate")
    assert not output.exists()


def test_adapt_and_predict_run_without_tensorflow(bundle, pictures, tmp_path):
    head = tmp_path / "head.npz"
    adapt = ["adapt", bundle, "--support", pictures, "--output", head]
    predict = ["predict", bundle, "--head", head, pictures / "dark" / "0.png"]
    commands = [[str(argument) for argument in command] for command in (adapt, predict)]
    program = (
        "import sys; from anil_tf.cli import main; "
        f"[main(command, standalone_mode=False) for command in {commands!r}]; "
        "print({'tensorflow', 'keras'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.stdout.strip().endswith("set()"), process.stderr


def test_a_picture_that_does_not_decode_is_named(bundle, pictures, head, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    assert_refused(anil("predict", bundle, "--head", head, broken), "broken.png")
    support = shutil.copytree(pictures, tmp_path / "support")
    shutil.copy(broken, support / "dark" / "broken.png")
    result = anil("adapt", bundle, "--support", support, "--output", tmp_path / "head.npz")
    assert_refused(result, "broken.png")
    assert not (tmp_path / "head.npz").exists()


@pytest.mark.filterwarnings("default:Left out")
def test_files_left_out_are_one_line(bundle, pictures, tmp_path):
    support = shutil.copytree(pictures, tmp_path / "support")
    (support / "dark" / "more").mkdir()
    (support / "dark" / "0.png").rename(support / "dark" / "more" / "0.png")
    (support / "light" / "notes.txt").write_text("not a picture")
    (support / "light" / "._0.png").write_bytes(b"left by a Mac")
    result = anil("adapt", bundle, "--support", support, "--output", tmp_path / "head.npz")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("dark: 2 images\n")
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Warning"))
    assert line == (
        f"Warning: Left out 2 files of {support}: in a folder below a class: 1 (dark/more/0.png); "
        "no picture: 1 (light/notes.txt)"
    )


def test_a_single_class_is_refused(bundle, pictures, tmp_path):
    shutil.copytree(pictures / "dark", tmp_path / "one" / "dark")
    result = anil("adapt", bundle, "--support", tmp_path / "one", "--output", tmp_path / "h.npz")
    assert_refused(result, "at least 2 classes to tell apart. Received: ['dark']")


def test_more_classes_than_a_per_class_head_has_are_refused(per_class_bundle, pictures, tmp_path):
    for index in range(6):
        shutil.copytree(pictures / "dark", tmp_path / "many" / f"class {index}")
    result = anil(
        "adapt", per_class_bundle, "--support", tmp_path / "many", "--output", tmp_path / "h.npz"
    )
    assert_refused(result, "each of 5 classes", "ways=6")


def test_a_head_of_another_bundle_is_refused(per_class_bundle, bundle, pictures, head, tmp_path):
    other = tmp_path / "head.npz"
    with np.load(head) as arrays:
        np.savez(other, **{**arrays, "backbone_sha256": np.array("f" * 64)})
    picture = pictures / "dark" / "0.png"
    assert_refused(anil("predict", bundle, "--head", other, picture), "head.npz", "another bundle")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["verify", "."], "is not a bundle"),
        (["export", ".", "--output", "b"], "is not a finished run"),
        (["predict", ".", "--head", "h", "i.png"], "is not a bundle"),
    ],
)
def test_a_folder_of_another_kind_is_refused(arguments, fragment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(anil(*arguments), fragment)
