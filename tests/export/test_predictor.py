"""`Predictor`: what the commands `adapt` and `predict` run on, in Python and without TensorFlow."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

import anil_tf
from anil_tf.export import Predictor
from anil_tf.export.head import Head
from anil_tf.export.manifest import Acceptance
from anil_tf.export.predictor import BATCH

GREYS = {"dark": 20, "grey": 120, "light": 230}


@pytest.fixture(scope="module")
def drawings():
    """Three images of each class, uint8 `[3, 28, 28, 1]`."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(grey, 8, (3, 28, 28, 1)).clip(0, 255).astype(np.uint8)
        for name, grey in GREYS.items()
    }


@pytest.fixture
def predictor(bundle, drawings):
    """Has learned the three."""
    predictor = Predictor(bundle, steps=200)
    labels = np.repeat(list(drawings), 3)
    predictor.learn(np.concatenate(list(drawings.values())), labels)
    return predictor


def assert_same_head(head, other):
    assert head.names == other.names
    for name in ("kernel", "bias", "support_features", "support_labels"):
        np.testing.assert_allclose(getattr(head, name), getattr(other, name), atol=1e-6)


def test_what_was_learned_is_named(predictor, drawings):
    assert predictor.names == ("dark", "grey", "light")
    assert predictor.counts == {"dark": 3, "grey": 3, "light": 3}
    assert predictor.adaptation.final_loss < predictor.adaptation.initial_loss
    probabilities = predictor.predict(np.stack([drawings[name][0] for name in GREYS]))
    assert probabilities.argmax(axis=1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def with_acceptance(predictor, *thresholds):
    """Gives a bundle another table: thresholds at shares of 0.5 and 0.9, for any shots."""
    table = Acceptance(rates=[0.5, 0.9], shots=[1], thresholds=[list(thresholds)])
    manifest = predictor.runtime.manifest.model_copy(update={"acceptance": table})
    predictor.runtime.manifest = manifest


def test_an_image_unlike_its_class_is_none_of_these(predictor, drawings):
    queries = np.stack([drawings[name][0] for name in GREYS])
    probabilities, similarity = predictor.predict(queries), predictor.similarity(queries)
    own = np.diag(similarity)  # each drawing is named its own class
    between = float(np.sort(own)[:2].mean())
    with_acceptance(predictor, between, -1)
    judged = predictor.predict(queries, accept=0.5)
    none = own < between
    assert none.sum() == 1
    np.testing.assert_array_equal(judged[:, -1], none)
    np.testing.assert_array_equal(judged[none, :-1], 0)
    np.testing.assert_array_equal(judged[~none, :-1], probabilities[~none])
    np.testing.assert_array_equal(predictor.predict(queries, accept=0.9)[:, :-1], probabilities)


def test_own_negatives_choose_the_share_to_accept(predictor, drawings, bundle, tmp_path):
    queries = np.stack([drawings[name][0] for name in GREYS])
    similarity = predictor.similarity(queries)
    with_acceptance(predictor, 1.0, float(similarity.max()) - 0.01)
    share = predictor.fit_acceptance(queries)  # all alike enough at a share of 0.9
    assert 0.5 <= share < 0.9
    assert predictor.predict(queries, accept=share)[:, -1].all()
    assert predictor.fit_acceptance(255 - queries) >= share
    predictor.save(tmp_path / "head.npz")
    kept = Predictor(bundle, tmp_path / "head.npz")
    assert kept.head.accept == predictor.head.accept
    kept.remove_class("grey")
    assert kept.head.accept == predictor.head.accept


@pytest.mark.parametrize("accept", [-0.1, 1.5, np.nan])
def test_a_share_that_is_none_is_a_damaged_head(predictor, bundle, tmp_path, accept):
    predictor.head._replace(accept=accept).write(tmp_path / "head.npz")
    with pytest.raises(ValueError, match=r"is damaged: accept must lie in 0..1"):
        Predictor(bundle, tmp_path / "head.npz")


def test_similarity_needs_what_the_head_keeps(predictor, drawings):
    head = predictor.head
    bare = Head.without_support(head.kernel, head.bias, head.names, head.backbone_sha256)
    assert predictor.predict(drawings["dark"], bare).shape == (3, 3)
    with pytest.raises(ValueError, match="keeps no features.*none of these. Learn its classes"):
        predictor.predict(drawings["dark"], bare, accept=0.9)


def test_a_bundle_without_a_table_says_so(predictor, drawings):
    manifest = predictor.runtime.manifest.model_copy(update={"acceptance": None})
    predictor.runtime.manifest = manifest
    assert predictor.predict(drawings["dark"]).shape == (3, 3)
    with pytest.raises(ValueError, match="no table of acceptance.*anil train --resume"):
        predictor.predict(drawings["dark"], accept=0.9)


def test_the_order_of_images_and_labels_does_not_matter(bundle, predictor, drawings):
    pairs = [(image, name) for name, images in drawings.items() for image in images]
    images, labels = zip(*reversed(pairs), strict=True)
    other = Predictor(bundle, steps=200)
    other.learn(list(images), labels)
    queries = np.concatenate(list(drawings.values()))
    np.testing.assert_allclose(other.predict(queries), predictor.predict(queries), atol=1e-5)


def test_a_support_loss_that_rises_is_reported(bundle, drawings):
    predictor = Predictor(bundle, learning_rate=1000.0, steps=3)
    with pytest.warns(UserWarning, match=r"The support loss rose from \S+ to \S+: the head may"):
        predictor.learn(np.concatenate(list(drawings.values())), np.repeat(list(drawings), 3))


def test_classes_may_have_different_numbers_of_images(bundle, drawings):
    few = Predictor(bundle, steps=200)
    few.learn(
        [*drawings["dark"], drawings["grey"][0], *drawings["light"]], ["a"] * 3 + ["b"] + ["c"] * 3
    )
    probabilities = few.predict(np.concatenate(list(drawings.values())))
    assert probabilities.argmax(axis=1).tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_learning_forgets_what_was_known(predictor, drawings):
    predictor.learn(np.concatenate([drawings["dark"], drawings["light"]]), [7] * 3 + [8] * 3)
    assert predictor.names == ("7", "8")


def test_a_class_added_is_as_if_learned_at_once(bundle, predictor, drawings):
    grown = Predictor(bundle, steps=200)
    for name in ("light", "dark", "grey"):
        grown.add_class(name, drawings[name])
    assert_same_head(grown.head, predictor.head)


def test_a_class_removed_leaves_no_trace(bundle, predictor, drawings):
    predictor.remove_class("light")
    two = Predictor(bundle, steps=200)
    two.learn(np.concatenate([drawings["dark"], drawings["grey"]]), ["dark"] * 3 + ["grey"] * 3)
    assert_same_head(predictor.head, two.head)


def test_every_change_returns_the_head_that_is_kept(bundle, predictor, drawings):
    assert predictor.remove_class("light") is predictor.head
    assert predictor.add_class("light", drawings["light"]) is predictor.head
    images = np.concatenate([drawings["dark"], drawings["light"]])
    learned = predictor.learn(images, ["dark"] * 3 + ["light"] * 3)
    assert learned is predictor.head and learned.names == ("dark", "light")
    assert predictor.remove_class("dark") is None


def test_another_head_of_the_bundle_predicts_and_one_of_another_backbone_is_refused(
    bundle, predictor, drawings
):
    other = Predictor(bundle, steps=200)
    images = drawings["grey"]
    rows = other.predict(images, predictor.head)
    np.testing.assert_array_equal(rows, predictor.predict(images))
    assert other.head is None
    with pytest.raises(ValueError, match="made with another backbone than that of 'tiny'"):
        other.predict(images, predictor.head._replace(backbone_sha256="0" * 64))


def test_a_saved_head_goes_on(bundle, predictor, drawings, tmp_path):
    predictor.save(tmp_path / "head.npz")
    again = Predictor(bundle, tmp_path / "head.npz", steps=200)
    images = drawings["grey"]
    np.testing.assert_array_equal(again.predict(images), predictor.predict(images))
    again.remove_class("dark")
    again.add_class("dark", drawings["dark"])
    assert_same_head(again.head, predictor.head)


def test_files_pillow_images_and_arrays_are_the_same_images(predictor, drawings, tmp_path):
    array = drawings["grey"][0]
    picture = Image.fromarray(array.squeeze())
    picture.save(tmp_path / "grey.png")
    rows = predictor.predict([array, picture, tmp_path / "grey.png", str(tmp_path / "grey.png")])
    np.testing.assert_allclose(rows, np.repeat(rows[:1], 4, axis=0), atol=1e-6)


def test_one_image_is_enough_and_any_iterable_will_do(predictor, drawings, tmp_path, monkeypatch):
    array = drawings["grey"][0]
    picture = Image.fromarray(array.squeeze())
    picture.save(tmp_path / "cat.jpg", quality=100)
    picture.save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    expected = predictor.predict(array[np.newaxis])
    for one in ("cat.png", tmp_path / "cat.png", picture, array, array[..., 0]):
        np.testing.assert_array_equal(predictor.predict(one), expected)
    assert predictor.predict("cat.jpg").shape == (1, 3)
    mixed = ["cat.png", tmp_path / "cat.png", picture, array, array.squeeze(), array.tolist()]
    for many in (
        mixed,
        tuple(mixed),
        (image for image in mixed),
        np.array(["cat.png"] * 6),
        np.repeat(array[np.newaxis], 6, axis=0),
        np.repeat(array[np.newaxis, ..., 0], 6, axis=0),
        [array.tolist()] * 6,
        dict.fromkeys(range(6), "cat.png").values(),
    ):
        rows = predictor.predict(many)
        np.testing.assert_allclose(rows, np.repeat(expected, 6, axis=0), atol=1e-6)


def test_a_class_is_learned_from_one_file_or_a_generator(bundle, drawings, tmp_path):
    pictures = {name: Image.fromarray(images[0, ..., 0]) for name, images in drawings.items()}
    pictures["dark"].save(tmp_path / "dark.png")
    predictor = Predictor(bundle, steps=200)
    predictor.add_class("dark", tmp_path / "dark.png")
    predictor.add_class("grey", (picture for picture in [pictures["grey"]]))
    predictor.add_class("light", pictures["light"])
    assert predictor.counts == {"dark": 1, "grey": 1, "light": 1}
    again = Predictor(bundle, steps=200)
    again.learn((picture for picture in pictures.values()), iter(pictures))
    assert_same_head(again.head, predictor.head)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"cat": "cat.jpg"}, "one or a list of them. Received: {'cat': 'cat.jpg'}"),
        (b"\xff\xd8", "one or a list of them"),
        (7, "one or a list of them. Received: 7"),
        ([None], "An image is a file, a Pillow image or an array. Received: None"),
        ([np.zeros((28, 28), np.uint8), 7], "An image is a file, .* Received: 7"),
        (np.uint8(7), "must have axes"),
        (".", "is a folder. Expected the file of an image"),
        (np.ones((28, 28, 1), bool), "bool .* multiply by np.uint8"),
        ([np.ones((28, 28, 1), bool), np.zeros((28, 28, 1), np.uint8)], "Received: a bool array"),
        (np.full((28, 28), 300, np.uint16), "image must lie in 0..255. Received: uint16"),
    ],
)
def test_what_is_no_image_is_refused(predictor, images, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(images)


def test_integer_labels_are_columns_in_the_order_of_the_numbers(bundle, drawings, tmp_path):
    images = np.repeat(drawings["dark"][:1], 12, axis=0)
    predictor = Predictor(bundle)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal images: the loss cannot fall
        for labels in (np.arange(12)[::-1], np.arange(12.0), [str(n) for n in range(12)]):
            predictor.learn(images, labels)
            assert predictor.names == tuple(str(n) for n in range(12))
        predictor.remove_class(5)
    predictor.save(tmp_path / "head.npz")
    assert Predictor(bundle, tmp_path / "head.npz").names[4:7] == ("4", "6", "7")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.eye(3)[[0, 1, 2]],
            r"\[3, 3\]. Turn one-hot rows into numbers: labels.argmax",
        ),
        ([[1, 0], [0, 1], [0, 1]], r"Received: \[3, 2\]. Turn one-hot rows into numbers"),
        (np.array([[0], [1], [1]]), r"Received: \[3, 1\]. Take the axis away: labels.ravel\(\)"),
        ([["a"], ["b"], ["b"]], r"Received: \[3, 1\]. Take the axis away"),
        (["a", None, "b"], "must have a label. Received: None for image 1"),
        (["a", "b", float("nan")], "must have a label. Received: nan for image 2"),
        (np.array([0, np.nan, 1]), "must have a label. Received: nan for image 1"),
        (["a", "", "b"], "must have a label. Received: '' for image 1"),
        ("abc", "a list with a name for each image. Received: 'abc'"),
    ],
)
def test_labels_that_name_no_class_are_refused(predictor, drawings, labels, message):
    head = predictor.head
    with pytest.raises(ValueError, match=message):
        predictor.learn(drawings["dark"], labels)
    assert predictor.head is head


def test_any_number_of_images_is_named(predictor, drawings):
    many = np.repeat(drawings["dark"], BATCH, axis=0)
    assert predictor.predict(many).shape == (3 * BATCH, 3)


def test_what_does_not_fit_is_refused_and_changes_nothing(predictor, drawings):
    head = predictor.head
    for change, message in (
        (lambda: predictor.learn(drawings["dark"], ["a"]), "one label for each image"),
        (lambda: predictor.learn(drawings["dark"], ["a"] * 3), r"at least 2 classes. .*\['a'\]"),
        (lambda: predictor.add_class("a", []), "at least one image of 'a'"),
        (lambda: predictor.add_class("a", [np.zeros((9, 9, 1), np.uint8)]), r"\[28, 28, 1\]"),
        (lambda: predictor.add_class("a", drawings["dark"] / 255), "image must be uint8"),
        (lambda: predictor.remove_class("red"), "no class 'red' to remove"),
        (lambda: predictor.predict([]), "at least one image"),
    ):
        with pytest.raises(ValueError, match=message):
            change()
    assert predictor.head is head


def test_fewer_than_two_classes_are_not_told_apart(bundle, drawings, tmp_path):
    predictor = Predictor(bundle)
    predictor.add_class("dark", drawings["dark"])
    with pytest.raises(ValueError, match=r"at least 2 classes to tell apart. Received: \['dark'\]"):
        predictor.predict(drawings["dark"])
    with pytest.raises(ValueError, match="at least 2 classes"):
        predictor.save(tmp_path / "head.npz")
    assert not (tmp_path / "head.npz").exists()


def test_it_needs_neither_tensorflow_nor_keras(bundle, tmp_path):
    program = (
        "import sys, numpy as np, anil_tf\n"
        "from anil_tf.export import Predictor\n"
        f"predictor = anil_tf.Predictor({str(bundle)!r})\n"
        "images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)\n"
        "predictor.learn(images, list('abab'))\n"
        f"predictor.save({str(tmp_path / 'head.npz')!r})\n"
        "assert predictor.predict(images).shape == (4, 2)\n"
        "print({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr


def test_it_is_one_class_wherever_it_is_imported_from():
    assert anil_tf.Predictor is Predictor
