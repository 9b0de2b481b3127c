"""The Node example, and the modules that it shares with the page, against the Python side."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from anil_tf.acceptance import find_thresholds
from anil_tf.cli import main
from anil_tf.datasets.folder import read_image
from anil_tf.export import Predictor

STROKES = {
    "cross": [[(20, 20), (80, 80)], [(80, 20), (20, 80)]],
    "square": [[(20, 20), (80, 20), (80, 80), (20, 80), (20, 20)]],
    "zigzag": [[(10, 30), (30, 70), (50, 30), (70, 70), (90, 30)]],
}


def draw(symbol, seed):
    """An RGB picture, not square, of a symbol that is never drawn twice alike."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (200, 180), "white")
    for stroke in STROKES[symbol]:
        points = [tuple(1.7 * np.array(point) + rng.normal(0, 5, 2)) for point in stroke]
        ImageDraw.Draw(picture).line(points, (30, 20, 60), width=9, joint="curve")
    return picture


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three examples of each symbol, PNG and JPEG, and one more to classify."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, symbol in enumerate(STROKES):
        (folder / "support" / symbol).mkdir(parents=True)
        for seed, suffix in enumerate(("png", "png", "jpg")):
            picture = draw(symbol, 10 * index + seed)
            picture.save(folder / "support" / symbol / f"{seed}.{suffix}")
        draw(symbol, 99 + index).save(folder / f"{symbol}.png")
    return folder


@pytest.fixture
def node(browser_example):
    def run(*command):
        command = ["node", *map(str, command)]
        return subprocess.run(command, cwd=browser_example, capture_output=True, text=True)

    return run


def read_predictions(lines):
    """`{file: {class: probability}}` of lines `file: class probability, ...`."""
    return {
        file: {name: float(value) for name, value in (pair.split() for pair in pairs.split(", "))}
        for file, pairs in (line.split(": ") for line in lines)
    }


def test_it_learns_and_classifies_as_the_command_line_does(node, bundle, pictures, tmp_path):
    images = [pictures / f"{symbol}.png" for symbol in STROKES]
    done = node("learn.mjs", bundle, pictures / "support", *images)
    assert done.returncode == 0, done.stderr
    learned, *lines = done.stdout.splitlines()
    assert learned == "Learned cross, square, zigzag from 9 images"
    predictions = read_predictions(lines)
    for symbol, image in zip(STROKES, images, strict=True):
        assert next(iter(predictions[str(image)])) == symbol

    def anil(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output

    head, figures = tmp_path / "head.npz", tmp_path / "predictions.json"
    anil("adapt", bundle, "--support", pictures / "support", "--output", head)
    anil("predict", bundle, "--head", head, *images, "--json", figures)
    for expected in json.loads(figures.read_text()):
        # JPEG decoders may differ by a grey level.
        assert predictions[expected["image"]] == pytest.approx(expected["probabilities"], abs=0.02)


@pytest.mark.parametrize(
    ("support", "image", "message"),
    [
        ("support", "support/cross", "is neither a PNG nor a JPEG picture"),
        ("support", "broken.png", "is not a picture that decodes"),
        ("support/cross", "cross.png", "must hold two class folders"),
        ("absent", "cross.png", "no such file or directory"),
    ],
)
def test_a_mistake_is_one_line(node, bundle, pictures, support, image, message):
    (pictures / "broken.png").write_bytes(b"not a picture")
    done = node("learn.mjs", bundle, pictures / support, pictures / image)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and message in line


def test_a_loss_that_rises_is_reported(node, bundle, pictures, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    uphill = json.loads((copy / "manifest.json").read_text()) | {"inner_lr": -20.0}
    (copy / "manifest.json").write_text(json.dumps(uphill))
    done = node("learn.mjs", copy, pictures / "support", pictures / "cross.png")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("Warning: The support loss rose from ")


def test_a_folder_that_is_no_bundle_is_refused(node, pictures):
    done = node("learn.mjs", pictures, pictures / "support", pictures / "cross.png")
    assert done.stderr.strip() == f"Error: {pictures} is not a bundle"


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (84, 84, 3), (17, 33, 3), (300, 250, 1)])
def test_pixels_are_those_that_python_makes(node, browser_example, tmp_path, image_shape):
    picture = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (120, 150, 3), np.uint8)
    Image.fromarray(noise).save(picture)
    program = f"""
        import {{ readFileSync }} from "node:fs";
        import {{ PNG }} from "pngjs";
        import {{ toPixels }} from "{(browser_example / "pixels.js").as_uri()}";
        const image = PNG.sync.read(readFileSync({json.dumps(str(picture))}));
        process.stdout.write(JSON.stringify([...toPixels(image, {list(image_shape)})]));
    """
    done = node("--input-type=module", "--eval", program)
    assert done.returncode == 0, done.stderr
    pixels = np.reshape(json.loads(done.stdout), image_shape)
    np.testing.assert_array_equal(pixels, read_image(picture, image_shape))


@pytest.mark.parametrize(
    ("image", "received"),
    [("new Uint16Array(784).fill(300)", "Uint16Array of 784"), ("[0.5, 300]", "Array of 2")],
)
def test_an_image_that_is_not_bytes_is_refused(node, browser_example, bundle, image, received):
    program = f"""
        import {{ readFileSync }} from "node:fs";
        import * as ort from "onnxruntime-web";
        import {{ FewShot }} from "{(browser_example / "fewshot.js").as_uri()}";
        ort.env.wasm.numThreads = 1;
        const model = await FewShot.open(ort, (name) => readFileSync({str(bundle)!r} + "/" + name));
        await model.features([{image}]).catch((error) => console.log(error.message));
    """
    done = node("--input-type=module", "--eval", program)
    assert done.stdout.strip().endswith(f"784 bytes. Received: {received}"), done.stderr


def test_class_names_that_are_numbers_are_in_their_order(node, bundle, pictures, tmp_path):
    for number in (0, 1, 2, 10, 11):
        shutil.copytree(pictures / "support" / "cross", tmp_path / str(number))
    done = node("learn.mjs", bundle, tmp_path, pictures / "cross.png")
    assert done.stdout.startswith("Learned 0, 1, 2, 10, 11 from"), done.stderr


def test_files_that_are_left_out_are_counted_and_leftovers_are_not(
    node, bundle, pictures, tmp_path
):
    support = tmp_path / "support"
    shutil.copytree(pictures / "support", support)
    (support / "__MACOSX").mkdir()
    (support / "cross" / "._0.png").write_bytes(b"\0\5\26\7")
    (support / "cross" / "Thumbs.db").write_bytes(b"?")
    shutil.move(support / "cross" / "0.png", support / "cross" / "without_suffix")
    done = node("learn.mjs", bundle, support, pictures / "cross.png")
    assert "from 9 images" in done.stdout and not done.stderr
    Image.open(pictures / "cross.png").save(support / "cross" / "a.webp")
    (support / "cross" / "more").mkdir()
    done = node("learn.mjs", bundle, support, pictures / "cross.png")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Warning: Left out 2 in") and line.endswith("(cross/a.webp, ...)")


NONE_OF_THESE = """
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import { FewShot } from "./fewshot.js";

const model = await FewShot.open(ort, (name) => readFile(`${process.argv[1]}/${name}`));
const image = (grey) => new Uint8Array(28 * 28).map((_, i) => grey + (i % 7));
const head = await model.learn([image(20), image(120), image(130)], [0, 1, 1]);
const shown = {};
shown.similarity = (await model.similarity([image(60)], head)).map((row) => [...row]);
for (const accept of [undefined, 0.5, 0.99]) {
  shown[accept] = (await model.predict([image(60)], head, { accept })).map((row) => [...row]);
}
model.manifest.acceptance = JSON.parse(process.argv[2]);
shown.thresholds = model.thresholds(head, 0.85);
model.manifest.acceptance = null;
shown.error = await model.predict([image(60)], head, { accept: 0.9 }).catch((e) => e.message);
console.log(JSON.stringify(shown));
"""


def test_it_says_none_of_these_as_python_does(node, bundle):
    table = {
        "rates": [0.8, 0.9, 0.99],
        "shots": [1, 4, 10],
        "thresholds": [[0.70, 0.60, 0.40], [0.80, 0.72, 0.50], [0.90, 0.84, 0.60]],
    }
    done = node("--input-type=module", "--eval", NONE_OF_THESE, bundle, json.dumps(table))
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)

    def image(grey):
        return (grey + np.arange(28 * 28) % 7).astype(np.uint8).reshape(28, 28, 1)

    predictor = Predictor(bundle)
    head = predictor.learn([image(20), image(120), image(130)], [0, 1, 1])
    similarity = predictor.similarity(image(60))
    np.testing.assert_allclose(shown["similarity"], similarity, rtol=1e-5, atol=1e-6)
    assert shown["0.5"] == [[0, 0, 1]]
    np.testing.assert_allclose(shown["0.99"], [[*shown["undefined"][0], 0]])
    np.testing.assert_allclose(shown["thresholds"], find_thresholds(table, head.counts, 0.85))
    assert "no table of acceptance" in shown["error"]
