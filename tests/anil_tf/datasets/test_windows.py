"""Windows of sensor data and sound: every kind of file, and what is refused."""

import wave

import numpy as np
import pytest

from anil_tf import EpisodeSampler, backbones
from anil_tf.datasets.images import as_pictures
from anil_tf.datasets.load import load_folder
from anil_tf.datasets.splits import SplitRule
from anil_tf.datasets.windows import read_window

SHAPE = (20, 3)


def write_wav(path, samples, rate=16_000, width=2, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        if width == 1:
            content = np.rint(samples * 127 + 128).astype(np.uint8).tobytes()
        else:
            wide = np.rint(samples * (2 ** (8 * width - 1) - 1)).astype("<i4")
            content = wide.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
        file.writeframes(content)


def tone(hertz, seconds=0.5, rate=16_000):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def test_arrays_and_tables_are_read_as_they_are(tmp_path):
    window = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.save(tmp_path / "a.npy", window)
    np.save(tmp_path / "b.npy", (100 * window).astype(np.int16))
    (tmp_path / "b.npy").rename(tmp_path / "b.NPY")
    np.savetxt(tmp_path / "c.csv", window, delimiter=",")
    np.savetxt(tmp_path / "d.csv", window, delimiter=",", header="x,y,z", comments="")
    for name in ("a.npy", "c.csv", "d.csv"):
        read = read_window(tmp_path / name, SHAPE)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, window, rtol=1e-6)
    np.testing.assert_allclose(read_window(tmp_path / "b.NPY", SHAPE), 100 * window, atol=1)
    np.save(tmp_path / "e.npy", window[:, 0])
    np.testing.assert_array_equal(read_window(tmp_path / "e.npy", (20, 1)), window[:, :1])


def test_a_sound_becomes_energies_in_mel_bands(tmp_path):
    highest = []
    for hertz in (200, 1000, 5000):
        write_wav(tmp_path / "tone.wav", tone(hertz))
        bands = read_window(tmp_path / "tone.wav", (40, 32))
        assert bands.shape == (40, 32)
        highest.append(bands.mean(axis=0).argmax())
    assert highest == sorted(highest) and len(set(highest)) == 3


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_sounds_of_any_depth_rate_and_channels_agree(tmp_path, width):
    write_wav(tmp_path / "a.wav", tone(440))
    stereo = np.repeat(tone(440, rate=48_000), 2)
    write_wav(tmp_path / "b.wav", stereo, rate=48_000, width=width, channels=2)
    first, second = (read_window(tmp_path / name, (30, 16)) for name in ("a.wav", "b.wav"))
    loud = first > first.max() - 4
    np.testing.assert_allclose(second[loud], first[loud], atol=0.1)


def test_a_long_sound_is_cut_around_its_centre_and_silence_follows_a_short_one(tmp_path):
    long = np.concatenate([np.zeros(16_000), tone(500, 0.5), np.zeros(16_000)])
    write_wav(tmp_path / "long.wav", long)
    write_wav(tmp_path / "short.wav", tone(500, 0.1))
    loud = read_window(tmp_path / "long.wav", (40, 16)).max(axis=1)
    assert loud.min() > -10
    short = read_window(tmp_path / "short.wav", (40, 16)).max(axis=1)
    assert short[:5].min() > -10 and short[20:].max() == pytest.approx(np.log(1e-9))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros((19, 3)), r"window of 20 moments and 3 channels .*\[19, 3\]"),
        ("a.npy", np.full((20, 3), np.nan), "values that are not finite"),
        ("a.npy", np.array([["x"] * 3] * 20), "no window that can be read: its numbers are of"),
        ("a.npy", b"\x93NUMPY\x01\x00", "no window that can be read"),
        ("a.csv", b"x,y,z\n1,2,three\n", "no window that can be read"),
        ("a.csv", b"1,2\n1,2\n", r"window of 20 moments and 3 channels .*\[2, 2\]"),
        ("a.wav", b"RIFF....WAVE", "no window that can be read"),
        ("a.txt", b"1,2,3", "is none of .npy, .csv, .wav"),
    ],
)
def test_what_is_no_window_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(ValueError, match=message):
        read_window(path, SHAPE)


def test_a_file_that_claims_more_than_it_holds_takes_no_memory(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000, 3), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    (tmp_path / "a.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    )
    with pytest.raises(ValueError, match="no window that can be read"):
        read_window(tmp_path / "a.npy", SHAPE)


@pytest.mark.parametrize("rate", [8000, 2**30])
def test_a_low_rate_is_refused_and_one_that_cannot_be(tmp_path, rate):
    write_wav(tmp_path / "a.wav", tone(440, rate=8000), rate=rate)
    with pytest.raises(ValueError, match=f"resample it to 16000. Received: {rate}"):
        read_window(tmp_path / "a.wav", (30, 16))


def test_a_folder_of_windows_becomes_float_episodes(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcdef":
        (tmp_path / name).mkdir()
        for index in range(4):
            np.save(tmp_path / name / f"{index}.npy", rng.normal(size=SHAPE))
    (tmp_path / "a" / "notes.txt").write_text("not a window")
    with pytest.warns(UserWarning, match="none of .npy, .csv, .wav: 1"):
        splits = load_folder(tmp_path, ("train",), SHAPE, SplitRule(None, (8, 1, 1)))
    sampler = EpisodeSampler(splits["train"], ways=2, shots=1, queries=2)
    episode = sampler.episode(0)
    assert episode["support_x"].shape == (2, 20, 3) and episode["support_x"].dtype == np.float32
    with pytest.raises(ValueError, match="are for pictures"):
        EpisodeSampler(splits["train"], ways=2, shots=1, queries=2, flips=True)


def test_windows_are_shown_with_a_row_per_channel():
    window = np.zeros((2, 32, 3), np.float32)
    window[:, :, 1] = np.linspace(0, 1, 32)
    shown = as_pictures(window)
    assert shown.shape == (2, 15, 32, 1) and shown.dtype == np.uint8
    assert shown[0, 7, -1, 0] == 255 and shown[0, 0].max() == 0
    pixels = np.zeros((2, 4, 4, 1), np.uint8)
    assert as_pictures(pixels) is pixels


def test_conv1d_says_what_it_takes():
    assert backbones.conv1d((32, 2), filters=8).output_shape == (None, 8)
    for shape in ((28, 28, 1), (15, 3)):
        with pytest.raises(ValueError, match="at least 16 moments"):
            backbones.conv1d(shape)
