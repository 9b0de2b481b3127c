"""Odd pictures give Node and the page the bytes that they give Python."""

import json
import subprocess

import numpy as np
import pytest

from anil_tf.datasets.pictures import read_image
from tests.odd_pictures import write_odd_pictures

SHAPES = [(28, 28, 1), (20, 30, 3)]
# Grey levels by which other decoders differ from Pillow's; all else is equal to the byte.
IN_NODE = {".jpg": 3}  # jpeg-js rounds otherwise than libjpeg-turbo
IN_CHROMIUM = {"cmyk.jpg": 2, "alpha.webp": 2}  # colours are multiplied by the opacity first


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "odd"
    folder.mkdir()
    write_odd_pictures(folder)
    return folder


def assert_like_python(file, shape, pixels, bounds):
    bound = bounds.get(file.name, bounds.get(file.suffix, 0))
    expected = read_image(file, shape).astype(int)
    pixels = np.reshape(pixels, shape)
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=bound, err_msg=file.name)


@pytest.mark.parametrize("shape", SHAPES)
def test_node_reads_what_python_reads(browser_example, odd, shape):
    files = sorted(file for file in odd.iterdir() if file.suffix in (".png", ".jpg"))
    assert len(files) > 35
    program = f"""
        import {{ decode }} from "{(browser_example / "decode.mjs").as_uri()}";
        import {{ toPixels }} from "{(browser_example / "pixels.js").as_uri()}";
        const read = (file) => [...toPixels(decode(file), {list(shape)})];
        process.stdout.write(JSON.stringify({json.dumps(list(map(str, files)))}.map(read)));
    """
    command = ["node", "--input-type=module", "--eval", program]
    done = subprocess.run(command, cwd=browser_example, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for file, pixels in zip(files, json.loads(done.stdout), strict=True):
        assert_like_python(file, shape, pixels, IN_NODE)


@pytest.mark.slow
def test_the_page_reads_what_python_reads(drive, odd):
    seen = drive("pixels", picture=odd.parent / "page.png")
    files = sorted(file for file in odd.iterdir() if file.suffix != ".tif")
    assert sorted(seen["pixels"]) == [file.name for file in files]
    for file in files:
        for shape, pixels in zip(SHAPES, seen["pixels"][file.name], strict=True):
            assert_like_python(file, shape, pixels, IN_CHROMIUM)
    # What a person adds through the page, whose model takes grey images of 28 x 28 pixels.
    assert sorted(seen["examples"]) == ["alpha.png", "turned6.jpg", "wide.png"]
    for name, pixels in seen["examples"].items():
        assert_like_python(odd / name, SHAPES[0], pixels, IN_CHROMIUM)
