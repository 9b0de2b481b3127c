"""Episodes: what they hold, that a seed and an index decide them, and what is refused."""

import numpy as np
import pytest

from anil_tf.datasets.images import ClassImages
from anil_tf.episodes import EpisodeSampler, SinusoidSampler


def make_classes(counts: list[int], size: int = 3) -> ClassImages:
    """Images whose pixel (0, 0) is the class and pixel (0, 1) the number within the class."""
    images = np.zeros((sum(counts), size, size, 1), np.uint8)
    labels = np.repeat(np.arange(len(counts)), counts)
    images[:, 0, 0, 0] = labels
    images[:, 0, 1, 0] = np.concatenate([np.arange(count) for count in counts])
    return ClassImages.from_arrays(images, labels, [f"c{n}" for n in range(len(counts))])


@pytest.fixture
def sampler() -> EpisodeSampler:
    return EpisodeSampler(make_classes([5, 9, 4, 7, 6, 5]), ways=3, shots=1, queries=3, seed=1)


def test_an_episode_has_the_shapes_and_dtypes_of_the_contract(sampler):
    episode = sampler.episode(0)
    assert {name: (value.dtype, value.shape) for name, value in episode.items()} == {
        "support_x": (np.uint8, (3, 3, 3, 1)),
        "support_y": (np.int32, (3,)),
        "query_x": (np.uint8, (9, 3, 3, 1)),
        "query_y": (np.int32, (9,)),
        "classes": (np.int64, (3,)),
    }


def test_an_episode_tells_which_classes_it_drew(sampler):
    episode = sampler.episode(0)
    for label, index in enumerate(episode["classes"]):
        drawn = episode["support_x"][episode["support_y"] == label][0]
        assert any(np.array_equal(drawn, image) for image in sampler.data.of(index))


def test_classes_are_distinct_and_no_query_image_is_in_the_support(sampler):
    for index in range(30):
        episode = sampler.episode(index)
        support, query = (episode[name][:, 0, :2, 0] for name in ("support_x", "query_x"))
        assert len(set(support[:, 0])) == 3
        drawn = [tuple(image) for image in np.concatenate([support, query])]
        assert len(set(drawn)) == len(drawn)


def test_labels_follow_the_classes(sampler):
    for index in range(10):
        episode = sampler.episode(index)
        class_of = dict(zip(episode["support_y"], episode["support_x"][:, 0, 0, 0], strict=True))
        expected = [class_of[label] for label in episode["query_y"]]
        np.testing.assert_array_equal(episode["query_x"][:, 0, 0, 0], expected)


def test_every_class_and_every_image_of_a_class_is_drawn(sampler):
    seen = set()
    for index in range(200):
        episode = sampler.episode(index)
        images = np.concatenate([episode["support_x"], episode["query_x"]])
        seen |= {tuple(image) for image in images[:, 0, :2, 0]}
    counts = sampler.data.counts
    assert seen == {(c, n) for c, count in enumerate(counts) for n in range(count)}


def test_seed_and_index_decide_an_episode(sampler):
    again = EpisodeSampler(sampler.data, 3, 1, 3, seed=1)
    other_seed = EpisodeSampler(sampler.data, 3, 1, 3, seed=2)
    for name, value in sampler.episode(7).items():
        np.testing.assert_array_equal(again.episode(7)[name], value)
    assert any(
        not np.array_equal(sampler.episode(7)["query_x"], other.episode(index)["query_x"])
        for other, index in ((other_seed, 7), (sampler, 8))
    )


def test_the_data_set_is_the_episodes_in_order_and_its_length_is_known(sampler):
    dataset = sampler.dataset(batches=3, tasks=2)
    assert int(dataset.cardinality()) == 3
    batches = list(dataset.as_numpy_iterator())
    assert len(batches) == 3
    for batch, (inputs, query_y) in enumerate(batches):
        assert set(inputs) == {"support_x", "support_y", "query_x"}
        for task in range(2):
            episode = sampler.episode(2 * batch + task)
            np.testing.assert_array_equal(inputs["query_x"][task], episode["query_x"])
            np.testing.assert_array_equal(query_y[task], episode["query_y"])


def test_a_data_set_goes_on_where_another_stopped(sampler):
    whole = list(sampler.dataset(batches=4, tasks=2).as_numpy_iterator())
    rest = list(sampler.dataset(batches=2, tasks=2, start=4).as_numpy_iterator())
    for (inputs, _), (expected, _) in zip(rest, whole[2:], strict=True):
        np.testing.assert_array_equal(inputs["support_x"], expected["support_x"])


def test_unequal_shots_are_drawn_anew_for_every_class_and_only_batches_are_padded():
    sampler = EpisodeSampler(make_classes([9] * 6), ways=3, shots=(1, 4), queries=2)
    (inputs, _), *_ = sampler.dataset(batches=1, tasks=40)
    labels = inputs["support_y"].numpy()
    assert labels.shape == (40, 12) and inputs["support_x"].shape == (40, 12, 3, 3, 1)
    seen = set()
    for index in range(40):
        episode = sampler.episode(index)
        counts = np.bincount(episode["support_y"], minlength=3)
        assert len(episode["support_x"]) == len(episode["support_y"]) == counts.sum()
        np.testing.assert_array_equal(labels[index][labels[index] >= 0], episode["support_y"])
        np.testing.assert_array_equal(
            inputs["support_x"][index][labels[index] >= 0], episode["support_x"]
        )
        seen |= {(label, count) for label, count in enumerate(counts)}
    assert seen == {(label, count) for label in range(3) for count in range(1, 5)}


@pytest.mark.parametrize("shots", [(0, 3), (4, 3), (1, 9)])
def test_a_range_of_shots_that_cannot_be_drawn_is_refused(shots):
    with pytest.raises(ValueError, match="shots"):
        EpisodeSampler(make_classes([9] * 6), ways=3, shots=shots, queries=2)


def test_rotation_turns_all_images_of_a_class_alike():
    classes = make_classes([4] * 6)
    sampler = EpisodeSampler(classes, ways=6, shots=1, queries=3, rotations=True)
    turns_seen = set()
    for index in range(10):
        episode = sampler.episode(index)
        images = np.concatenate(
            [episode["support_x"].reshape(6, 1, 3, 3), episode["query_x"].reshape(6, 3, 3, 3)], 1
        )
        originals = {image[..., 0].tobytes() for image in classes.images}
        for drawn in images:
            turns = [
                turn
                for turn in range(4)
                if all(
                    np.ascontiguousarray(np.rot90(image, -turn)).tobytes() in originals
                    for image in drawn
                )
            ]
            assert turns, "the images of a class were not turned alike"
            turns_seen.update(turns if len(turns) == 1 else [])
    assert turns_seen == {0, 1, 2, 3}


def test_too_few_classes_are_refused_with_the_counts():
    with pytest.raises(ValueError, match=r"7-way .* at least 7 classes\. Received: 6"):
        EpisodeSampler(make_classes([5] * 6), ways=7, shots=1, queries=1)


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(ValueError, match=r"need 5 images per class\. Received: class 'c2' with 4"):
        EpisodeSampler(make_classes([5, 9, 4]), ways=2, shots=1, queries=4)


@pytest.mark.parametrize("argument", ["ways", "shots", "queries"])
def test_sizes_below_one_are_refused(argument):
    sizes = {"ways": 2, "shots": 1, "queries": 1} | {argument: 0}
    with pytest.raises(
        ValueError, match=rf"{argument} must be at least 1\. Received: {argument}=0"
    ):
        EpisodeSampler(make_classes([5] * 3), **sizes)


def test_rotation_of_oblong_images_is_refused():
    images = np.zeros((6, 2, 3, 1), np.uint8)
    classes = ClassImages.from_arrays(images, np.repeat([0, 1], 3))
    with pytest.raises(ValueError, match="square images. Received: 2x3"):
        EpisodeSampler(classes, 2, 1, 1, rotations=True)


def test_distortion_adds_an_affine_function_of_its_own_to_the_coordinates_of_each_image():
    """Of ramps, which it leaves ramps: a straight line through the pixels says where they went."""
    width, height, slope = 21, 31, 40.0
    y, x = np.mgrid[:height, :width]
    x, y = 2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1
    ramps = np.stack([100 + slope * x, 100 + slope * y])[..., np.newaxis]  # along x; along y
    classes = ClassImages.from_arrays(
        np.repeat(ramps, 8, axis=0).astype(np.uint8), np.repeat([0, 1], 8)
    )
    sampler = EpisodeSampler(classes, ways=2, shots=3, queries=5, distortion=0.2)
    inside = (np.abs(x) < 0.5) & (np.abs(y) < 0.5)
    basis = np.stack([x[inside], y[inside], np.ones(inside.sum())], axis=1)
    found = []
    for index in range(10):
        episode = sampler.episode(index)
        for part, rows in (("support_x", 3), ("query_x", 5)):
            for number, image in enumerate(episode[part]):
                values = image[inside, 0].astype(float) + 0.5  # bytes were cut off
                line, *_ = np.linalg.lstsq(basis, values, rcond=None)
                assert np.abs(basis @ line - values).max() < 1.5
                axis = episode["classes"][number // rows]
                found.append((line - [0, 0, 100]) / slope - np.eye(3)[axis])
    changes = np.array(found)
    assert np.abs(changes).max() < 0.2 * 1.15
    assert np.all(changes.max(axis=0) > 0.1) and np.all(changes.min(axis=0) < -0.1)
    assert len(np.unique(changes.round(3), axis=0)) == len(changes)
    again = EpisodeSampler(classes, ways=2, shots=3, queries=5, distortion=0.2)
    np.testing.assert_array_equal(again.episode(3)["query_x"], sampler.episode(3)["query_x"])


def test_distortion_changes_neither_which_images_are_drawn_nor_their_labels(sampler):
    distorted = EpisodeSampler(sampler.data, 3, 1, 3, seed=1, distortion=0.1)
    for name in ("classes", "support_y", "query_y"):
        np.testing.assert_array_equal(distorted.episode(4)[name], sampler.episode(4)[name])


def test_flips_mirror_about_half_of_the_images_left_to_right():
    pixels = np.random.default_rng(0).integers(0, 256, (15, 4, 5, 3)).astype(np.uint8)
    classes = ClassImages.from_arrays(pixels, np.repeat([0, 1, 2], 5))
    sampler, mirrored = (EpisodeSampler(classes, 3, 1, 3, flips=flips) for flips in (False, True))
    turned = 0
    for index in range(10):
        pairs = zip(
            sampler.episode(index)["query_x"], mirrored.episode(index)["query_x"], strict=True
        )
        for image, found in pairs:
            assert np.array_equal(found, image) != np.array_equal(found, image[:, ::-1])
            turned += np.array_equal(found, image[:, ::-1])
    assert 30 < turned < 60


@pytest.mark.parametrize("distortion", [-0.1, 0.6, float("nan")])
def test_a_distortion_out_of_range_is_refused(distortion):
    with pytest.raises(ValueError, match="distortion is from 0 to 0.5. Received"):
        EpisodeSampler(make_classes([5] * 3), 2, 1, 1, distortion=distortion)


def test_sine_waves_are_sine_waves_of_the_published_ranges():
    sampler = SinusoidSampler(shots=40, queries=40)
    for index in range(20):
        episode = sampler.episode(index)
        x = np.concatenate([episode["support_x"], episode["query_x"]])[:, 0]
        y = np.concatenate([episode["support_y"], episode["query_y"]])[:, 0]
        basis = np.stack([np.sin(x), np.cos(x)], axis=1)
        (sine, cosine), *_ = np.linalg.lstsq(basis, y, rcond=None)
        np.testing.assert_allclose(basis @ [sine, cosine], y, atol=1e-4)
        assert 0.1 <= np.hypot(sine, cosine) <= 5.0
        assert -1e-4 <= np.arctan2(-cosine, sine) <= np.pi + 1e-4
        assert np.all(np.abs(x) <= 5)
