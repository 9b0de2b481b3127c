"""What a picture is: every way in which phones and people store one means the same pixels."""

import numpy as np
import pytest
from PIL import Image

from anil_tf.datasets.pictures import read_image, to_array, why_left_out
from tests.odd_pictures import HEIGHT, WIDTH, ramp, shades, write_odd_pictures

SHAPE = (HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The folder of odd pictures, and the pixels that each means."""
    folder = tmp_path_factory.mktemp("odd")
    return folder, write_odd_pictures(folder)


def names(odd, start):
    return [name for name in odd[1] if name.startswith(start)]


@pytest.mark.parametrize(
    ("start", "count"),
    [
        ("turned", 18),
        ("grey", 8),
        ("colour16", 1),
        ("palette", 5),
        ("alpha", 3),
        ("hole", 1),
        ("key", 3),
        ("cmyk", 2),
        ("animated", 3),
        ("tall", 1),
        ("wide", 1),
    ],
)
def test_a_file_means_its_pixels(odd, start, count):
    folder, means = odd
    found = names(odd, start)
    assert len(found) == count
    for name in found:
        pixels = read_image(folder / name, means[name].shape).astype(int)
        lossy = 3 if name.endswith("jpg") else 0
        np.testing.assert_allclose(pixels, means[name], rtol=0, atol=lossy, err_msg=name)


def test_a_grey_model_sees_the_luma_of_the_same_pixels(odd):
    folder, means = odd
    for name, meant in means.items():
        if name.endswith("jpg"):
            continue
        luma = (meant @ np.array([19595, 38470, 7471]) + 32768) >> 16
        pixels = read_image(folder / name, (*meant.shape[:2], 1))
        np.testing.assert_array_equal(pixels[..., 0], luma, err_msg=name)


def test_a_picture_of_pillow_s_is_read_as_its_file_is(odd):
    folder, _ = odd
    for name in ("turned6.jpg", "palette_alpha.png", "grey16.png", "cmyk.tif", "alpha.png"):
        with Image.open(folder / name) as picture:
            expected = read_image(folder / name, (9, 7, 3))
            np.testing.assert_array_equal(to_array(picture, (9, 7, 3)), expected)


def test_damaged_orientation_data_is_no_orientation(tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", SHAPE), ramp())


def test_floats_from_0_to_1_are_scaled():
    values = shades(8) / 255
    pixels = to_array(Image.fromarray(values.astype(np.float32)), (HEIGHT, WIDTH, 1))
    np.testing.assert_array_equal(pixels[..., 0], shades(8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float32([[0, 255]]), "float pixels must lie in 0..1. Received: 0 to 255"),
        (np.float32([[0, np.nan]]), "float pixels must lie in 0..1. Received: nan to nan"),
        (np.float32([[-0.5, 1]]), "float pixels must lie in 0..1. Received: -0.5 to 1"),
        (np.int32([[0, 255]]), "32-bit integer pixels have no known range"),
    ],
)
def test_pixels_without_a_known_range_are_refused(values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        to_array(Image.fromarray(values), (8, 8, 1))
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=f"a.tif is not an image that decodes: {message}"):
        read_image(tmp_path / "a.tif", (8, 8, 1))


def test_a_16_bit_pgm_is_scaled(tmp_path):
    header = f"P5 {WIDTH} {HEIGHT} 65535\n".encode()
    (tmp_path / "a.pgm").write_bytes(header + shades(16).astype(">u2").tobytes())
    pixels = read_image(tmp_path / "a.pgm", (HEIGHT, WIDTH, 1))
    np.testing.assert_array_equal(pixels[..., 0], shades(16) >> 8)


def test_rows_are_resized_before_columns_by_every_version_of_pillow():
    tall = Image.fromarray(ramp(90, 3))
    lanczos = Image.Resampling.LANCZOS
    expected = np.asarray(tall.resize((36, 90), lanczos).resize((36, 24), lanczos))
    np.testing.assert_array_equal(to_array(tall, (24, 36, 3), crop=False), expected)


@pytest.mark.parametrize("model", [(10, 10, 3), (8, 12, 3), (20, 5, 3), (1, 30, 3)])
@pytest.mark.parametrize("size", [(30, 10), (10, 31), (7, 7), (1, 40), (40, 1)])
def test_an_oblong_picture_is_cut_to_the_aspect_ratio_of_the_model_around_its_centre(size, model):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    height, width = model[:2]
    scale = min(size[0] / width, size[1] / height)  # of the model in the picture
    rows, columns = (max(1, int(side * scale + 1e-9)) for side in (height, width))
    top, left = (size[1] - rows) // 2, (size[0] - columns) // 2
    centre = Image.fromarray(pixels[top : top + rows, left : left + columns])
    expected = to_array(centre, model, crop=False)
    np.testing.assert_array_equal(to_array(Image.fromarray(pixels), model), expected)


def test_damaged_content_of_any_format_is_named_or_no_picture(odd, tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "whole.avif")
    originals = [*(odd[0] / name for name in odd[1]), tmp_path / "whole.avif"]
    rng = np.random.default_rng(0)
    named = 0
    for original in originals:
        for _ in range(8):
            content = bytearray(original.read_bytes())
            for place in rng.integers(0, min(len(content), 400), 4):
                content[place] = rng.integers(256)
            for name in (f"a{original.suffix}", "without_suffix"):
                (tmp_path / name).write_bytes(content)
                if not why_left_out(tmp_path / name):
                    try:
                        read_image(tmp_path / name, (8, 8, 3))
                    except ValueError as error:
                        named += 1
                        assert f"{name} is not an image that decodes" in str(error)
    assert named > 20


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match="is a folder. Expected the file of an image"):
        read_image(tmp_path, SHAPE)
