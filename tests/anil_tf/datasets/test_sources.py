"""Folders, arrays, splits and TFDS as sources of classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anil_tf.datasets import pictures
from anil_tf.datasets.folder import list_classes, read_classes, read_image
from anil_tf.datasets.images import ClassImages
from anil_tf.datasets.load import load_folder, load_tfds
from anil_tf.datasets.pictures import order_names, to_array
from anil_tf.datasets.splits import SPLITS, SplitRule, csv_split, random_split
from examples import omniglot_split

SHAPE = (8, 8, 3)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"  # how such a file begins


def write_tree(root: Path, classes: dict[str, int]) -> Path:
    """One folder a class; every pixel of an image is the class's position."""
    for position, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((10, 12, 3), 10 * position, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


class TestImages:
    def test_a_picture_is_brought_to_shape_and_channels(self):
        picture = Image.fromarray(np.full((20, 30, 3), 200, np.uint8))
        assert to_array(picture, (8, 6, 1)).shape == (8, 6, 1)
        np.testing.assert_array_equal(to_array(picture, (8, 6, 3)), 200)

    def test_arrays_are_grouped_by_label(self):
        images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1)
        classes = ClassImages.from_arrays(images, np.array([2, 0, 2, 0, 2, 0]), ["a", "b", "c"])
        assert classes.names == ("a", "c")
        np.testing.assert_array_equal(classes.of(0).ravel(), [1, 3, 5])
        np.testing.assert_array_equal(classes.of(1).ravel(), [0, 2, 4])
        np.testing.assert_array_equal(classes.select([1]).of(0).ravel(), [0, 2, 4])

    def test_floats_are_refused(self):
        with pytest.raises(ValueError, match=r"uint8 .* Received: float64 \[2, 4, 4, 1\]"):
            ClassImages.from_arrays(np.zeros((2, 4, 4, 1)), np.zeros(2, int))

    def test_labels_of_another_length_are_refused(self):
        with pytest.raises(ValueError, match=r"labels must be integers \[2\].*Received: int64 \[3"):
            ClassImages.from_arrays(np.zeros((2, 4, 4), np.uint8), np.zeros(3, np.int64))


class TestFolder:
    def test_reads_one_folder_a_class(self, tmp_path):
        root = write_tree(tmp_path / "tree", {"ant": 2, "bee": 3})
        (root / "notes.txt").write_text("not a class")
        (root / "bee" / "notes.txt").write_text("not an image")
        with pytest.warns(UserWarning, match=r"no picture: 1 \(bee/notes.txt\)"):
            classes = read_classes(list_classes(root), SHAPE)
        assert classes.names == ("ant", "bee")
        assert classes.images.dtype == np.uint8
        assert classes.of(1).shape == (3, *SHAPE)
        np.testing.assert_array_equal(classes.of(1), 10)

    def test_what_pillow_reads_is_read_by_suffix_or_content(self, tmp_path):
        folder = write_tree(tmp_path / "tree", {"ant": 1}) / "ant"
        picture = Image.open(folder / "0.png").convert("RGB")
        for name, kind in (
            ("a.tif", "TIFF"),
            ("b.jfif", "JPEG"),
            ("c.JPE", "JPEG"),
            ("d.jp2", "JPEG2000"),
            ("without_suffix", "JPEG"),
            ("IMG.0001", "PNG"),
            ("named.png", "WEBP"),
        ):
            picture.save(folder / name, kind)
        classes = read_classes(list_classes(tmp_path / "tree"), SHAPE)
        assert classes.of(0).shape == (8, *SHAPE)

    def test_files_left_out_are_counted_with_the_reason(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pictures, "register_heic", lambda: False)
        root = write_tree(tmp_path / "tree", {"ant": 1, "bee": 1})
        write_tree(root / "bee" / "more", {"lower": 4})
        (root / "ant" / "a.heic").write_bytes(HEIC)
        (root / "bee" / "b.HEIC").write_bytes(HEIC)
        (root / "bee" / "notes.txt").write_text("not an image")
        (root / "over.jpg").write_bytes(b"")
        with pytest.warns(UserWarning) as caught:
            classes = list_classes(root)
        assert [len(files) for files in classes.values()] == [1, 1]
        (warning,) = caught
        assert str(warning.message) == (
            f"Left out 8 files of {root}: "
            "HEIC, which needs pip install pillow-heif: 2 (ant/a.heic, ...); "
            "in a folder below a class: 4 (bee/more/lower/0.png, ...); "
            "no picture: 1 (bee/notes.txt); "
            "beside the class folders: 1 (over.jpg)"
        )

    def test_leftovers_of_a_mac_and_of_windows_are_not_mentioned(self, tmp_path):
        root = write_tree(tmp_path / "tree", {"ant": 1, "bee": 1, "__MACOSX": 2, ".git": 1})
        for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (root / "ant" / name).write_bytes(b"\0\5\26\7")
        assert {name: len(files) for name, files in list_classes(root).items()} == {
            "ant": 1,
            "bee": 1,
        }

    def test_a_class_of_pictures_that_cannot_be_read_says_why(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pictures, "register_heic", lambda: False)
        root = write_tree(tmp_path / "tree", {"ant": 1, "bee": 0})
        (root / "bee" / "a.heic").write_bytes(HEIC)
        (root / "ant" / "notes.txt").write_text("of another class")
        with pytest.raises(ValueError, match=r"class 'bee' has no images in .* Left out 1 file of"):
            list_classes(root)
        with pytest.raises(ValueError, match=r"HEIC, which needs pip install pillow-heif"):
            list_classes(root)

    def test_heic_under_the_name_of_jpeg_is_told(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pictures, "register_heic", lambda: False)
        (tmp_path / "a.jpg").write_bytes(HEIC)
        with pytest.raises(ValueError, match=r"a\.jpg is not .* needs pip install pillow-heif"):
            read_image(tmp_path / "a.jpg", SHAPE)

    def test_heic_is_read_where_pillow_heif_is_installed(self, tmp_path):
        heif = pytest.importorskip("pillow_heif")
        root = write_tree(tmp_path / "tree", {"ant": 0})
        picture = Image.new("RGB", (64, 32), (200, 100, 50))
        picture.paste((0, 0, 0), (0, 0, 32, 32))
        exif = Image.Exif()
        exif[0x0112] = 6
        heif.from_pillow(picture).save(root / "ant" / "a.heic", quality=95, exif=exif.tobytes())
        heif.from_pillow(picture).save(root / "ant" / "without_suffix", quality=95)
        turned, plain = read_classes(list_classes(root), (32, 64, 3)).of(0).astype(int)
        np.testing.assert_allclose(plain[:, 40:], 32 * [24 * [[200, 100, 50]]], atol=4)
        np.testing.assert_allclose(turned[:14], 14 * [64 * [[0, 0, 0]]], atol=8)  # above, not left
        (root / "ant" / "broken.heic").write_bytes(HEIC)
        with pytest.raises(ValueError, match=r"broken\.heic is not an image that decodes"):
            read_classes(list_classes(root), SHAPE)

    def test_a_file_that_does_not_decode_is_named(self, tmp_path):
        path = tmp_path / "broken.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        with pytest.raises(ValueError, match="broken.png is not an image that decodes"):
            read_image(path, SHAPE)

    def test_a_truncated_image_is_named(self, tmp_path):
        path = tmp_path / "half.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(ValueError, match="half.png is not an image that decodes"):
            read_image(path, SHAPE)

    def test_a_missing_folder_an_empty_one_and_an_empty_class_are_told_apart(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
            list_classes(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="has no class folders"):
            list_classes(tmp_path)
        (tmp_path / "ant").mkdir()
        with pytest.raises(ValueError, match="class 'ant' has no images"):
            list_classes(tmp_path)

    def test_split_folders_are_taken_as_they_are(self, tmp_path):
        for split, name in zip(SPLITS, ("ant", "bee", "cat"), strict=True):
            write_tree(tmp_path / split, {name: 2})
        splits = load_folder(tmp_path, ("train", "test"), SHAPE, SplitRule())
        assert {split: data.names for split, data in splits.items()} == {
            "train": ("ant",),
            "test": ("cat",),
        }

    def test_what_split_folders_leave_out_is_one_warning(self, tmp_path):
        for split, name in zip(SPLITS, ("ant", "bee", "cat"), strict=True):
            write_tree(tmp_path / split, {name: 2})
            (tmp_path / split / name / "notes.txt").write_text("not an image")
        with pytest.warns(UserWarning, match="Left out 1 .*train.*Left out 1 .*test") as seen:
            load_folder(tmp_path, ("train",), SHAPE, SplitRule())
        assert len(seen) == 1

    def test_a_class_in_two_split_folders_is_refused(self, tmp_path):
        for split, name in zip(SPLITS, ("ant", "bee", "ant"), strict=True):
            write_tree(tmp_path / split, {name: 2})
        with pytest.raises(ValueError, match=r"class 'ant' .* both train and test"):
            load_folder(tmp_path, ("train",), SHAPE, SplitRule())

    def test_a_seeded_split_of_a_heap_of_classes(self, tmp_path):
        write_tree(tmp_path, {f"c{n}": 1 for n in range(10)})
        splits = load_folder(tmp_path, SPLITS, SHAPE, SplitRule(sizes=(5, 2, 3)))
        names = [data.names for data in splits.values()]
        assert [len(part) for part in names] == [5, 2, 3]
        assert len(set().union(*names)) == 10


class TestSplits:
    def test_a_random_split_is_disjoint_complete_and_of_exact_sizes(self):
        names = [f"n{n}" for n in range(1623)]
        split = random_split(names, (1100, 100, 423), seed=0)
        assert [len(split[part]) for part in SPLITS] == [1100, 100, 423]
        assert sorted(sum(split.values(), [])) == sorted(names)

    def test_the_seed_and_not_the_order_of_names_decides(self):
        names = [f"n{n}" for n in range(30)]
        assert random_split(names, seed=3) == random_split(names[::-1], seed=3)
        assert random_split(names, seed=3) != random_split(names, seed=4)

    def test_too_few_classes_are_refused(self):
        with pytest.raises(ValueError, match=r"3 classes are too few .*Received: \[2, 0, 1\]"):
            random_split(["a", "b", "c"], (64, 16, 20))

    def test_csv_lists_as_published_for_mini_imagenet(self, tmp_path):
        for part, label in zip(SPLITS, "abc", strict=True):
            rows = f"filename,label\n{label}1.jpg,{label}\n{label}2.jpg,{label}\n"
            (tmp_path / f"{part}.csv").write_text(rows)
        assert csv_split(tmp_path, "abc") == {"train": ["a"], "val": ["b"], "test": ["c"]}
        with pytest.raises(ValueError, match=r"train\.csv names class 'a', of which"):
            csv_split(tmp_path, "xyz")
        (tmp_path / "test.csv").write_text("label\na\n")
        with pytest.raises(ValueError, match="class 'a' is in both train and test"):
            csv_split(tmp_path, "abc")
        (tmp_path / "test.csv").write_text("class\na\n")
        with pytest.raises(ValueError, match=r"test\.csv needs a 'label' column"):
            csv_split(tmp_path, "abc")


class TestTfds:
    def test_omniglot_splits_are_disjoint_characters(self, omniglot_data_dir):
        from anil_tf.training.recipe import read_recipe

        data = read_recipe("omniglot-5way-1shot").data
        splits = data.load(SPLITS, omniglot_data_dir)
        assert [len(splits[part].names) for part in SPLITS] == [1100, 100, 423]
        assert len(set().union(*(splits[part].names for part in SPLITS))) == 1623
        assert all((splits[part].counts == 20).all() for part in SPLITS)
        # No drawing is in two splits either.
        pixels = [{image.tobytes() for image in splits[part].images} for part in SPLITS]
        assert not (pixels[0] & pixels[2] or pixels[1] & pixels[2] or pixels[0] & pixels[1])

    def test_images_of_any_sizes_are_read_in_batches(self):
        import tensorflow as tf

        from anil_tf.datasets.tfds import read_examples

        images = [np.full((2 + n % 3, 4, 3), n, np.uint8) for n in range(7)]
        signature = {
            "image": tf.TensorSpec([None, None, 3], tf.uint8),
            "label": tf.TensorSpec([], tf.int64),
        }
        examples = ({"image": image, "label": n} for n, image in enumerate(images))
        dataset = tf.data.Dataset.from_generator(lambda: examples, output_signature=signature)
        for n, (image, label) in enumerate(read_examples(dataset, batch=3)):
            np.testing.assert_array_equal(image, images[n])
            assert label == n
        assert n == 6

    def test_a_data_set_that_tfds_does_not_know_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="TFDS knows no data set 'no_such_data'"):
            load_tfds("no_such_data", ("train",), SHAPE, SplitRule(), tmp_path)


def test_the_vinyals_split_becomes_class_lists_in_the_names_of_tfds(tmp_path):
    halves = {"background": {"Braille": ["character01", "character26"]}, "evaluation": {}}
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(halves))
    words = [tmp_path / "lists", "--vinyals", tmp_path]
    run = CliRunner().invoke(omniglot_split.main, list(map(str, words)))
    assert run.exit_code == 0 and "train: 2 characters" in run.output
    assert (tmp_path / "lists/val.csv").read_text().split() == ["label", "Braille_0", "Braille_25"]


def test_the_test_characters_that_helped_to_choose_the_recipes_are_left_out(
    omniglot_data_dir, tmp_path
):
    words = [str(tmp_path / "lists"), "--data-dir", str(omniglot_data_dir)]
    run = CliRunner().invoke(omniglot_split.main, words)
    assert run.exit_code == 0 and "test: 402 characters" in run.output
    lists = {split: (tmp_path / f"lists/{split}.csv").read_text().split() for split in SPLITS}
    names = sorted({name for split in lists.values() for name in split[1:]})
    assert len(names) == 1602 == sum(len(split) - 1 for split in lists.values())


class TestNames:
    def test_numbers_are_in_their_order_and_text_in_its_own(self):
        assert order_names(["10", "2", "0", "-1", "1"]) == ["-1", "0", "1", "2", "10"]
        assert order_names(["10", "2", "a"]) == ["10", "2", "a"]
