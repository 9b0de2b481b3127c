"""Windows of sensor data and sound: files of one window each, one folder per class.

A window is float32 `[T, C]`: T moments of C channels. It is a NumPy array (`.npy`), a table with a
row per moment (`.csv`), or a sound (`.wav`), whose frames become log-mel energies.
"""

import wave
from pathlib import Path

import numpy as np

from anil_tf.datasets.folder import fill
from anil_tf.datasets.images import ClassImages

SUFFIXES = (".npy", ".csv", ".wav")
LARGEST = 2**26  # bytes of a file
# Of sound: frames of 25 ms, one each 10 ms, and mel bands between these frequencies.
FRAME, STEP, LOWEST, HIGHEST = 0.025, 0.010, 60.0, 7600.0
FASTEST = 384_000  # samples per second; a damaged header claims any number
SILENCE = 1e-9  # is added to the power in each band, so that silence has a logarithm


def is_window(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether a model takes windows, and no pictures."""
    return len(shape) == 2 and dtype == "float32"


def why_no_window(path: Path) -> str:
    """Why an entry of a class folder is no window to read; empty if it is one."""
    if path.is_dir():
        return "in a folder below a class"
    return "" if path.suffix.lower() in SUFFIXES else f"none of {', '.join(SUFFIXES)}"


def read_window(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads a file as one window.

    Args:
        path: A `.npy`, `.csv` or `.wav` file. A table has commas, and may have a line of names. A
            sound has one or more channels, which are averaged, of 8 to 32 bits.
        shape: Moments and channels, `(T, C)`. A sound gives T frames of C mel bands: a longer one
            is cut around its centre, and silence follows a shorter one.

    Returns:
        float32 `[T, C]`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has another shape, cannot be read, or has values that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is too large for one window: {path.stat().st_size} bytes")
    readers = {".npy": _read_npy, ".csv": _read_csv, ".wav": _read_wav}
    try:
        reader = readers[path.suffix.lower()]
    except KeyError:
        raise ValueError(f"{path} is none of {', '.join(SUFFIXES)}") from None
    try:
        window = reader(path, shape)
    except MemoryError:
        raise
    except Exception as error:  # damaged or hostile content raises almost any
        raise ValueError(f"{path} is no window that can be read: {error}") from error
    if window.ndim == 1 and shape[1] == 1:
        window = window[:, np.newaxis]
    if window.shape != tuple(shape):
        raise ValueError(
            f"{path} must be a window of {shape[0]} moments and {shape[1]} channels "
            f"(data.image_shape). Received: {list(window.shape)}"
        )
    if not np.isfinite(window).all():
        raise ValueError(f"{path} has values that are not finite")
    return window.astype(np.float32)


def _read_npy(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    del shape
    window = np.load(path, mmap_mode="r", allow_pickle=False)  # of no more than is there
    if window.dtype.kind not in "iuf":
        raise ValueError(f"its numbers are of dtype {window.dtype}")
    return window


def _read_csv(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    del shape
    with path.open(encoding="utf-8") as file:
        first = file.readline().split(",")
    try:
        names = 0 if [float(value) for value in first] else 1
    except ValueError:
        names = 1
    return np.loadtxt(path, delimiter=",", skiprows=names, ndmin=2, encoding="utf-8")


def _read_wav(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    with wave.open(str(path), "rb") as file:
        rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
        content = file.readframes(file.getnframes())
    if width == 1:
        samples = np.frombuffer(content, np.uint8).astype(np.float32) / 128 - 1
    else:  # as the upper bytes of 32 bits
        upper = np.frombuffer(content, np.uint8).reshape(-1, width)
        padded = np.pad(upper, ((0, 0), (4 - width, 0)))
        samples = padded.view("<i4")[:, 0].astype(np.float32) / 2**31
    return log_mel(samples.reshape(-1, channels).mean(axis=1), rate, shape)


def log_mel(samples: np.ndarray, rate: int, shape: tuple[int, ...]) -> np.ndarray:
    """The logarithms of a sound's energies in mel bands, by `tf.signal`.

    The frames and the bands are those of `FRAME`, `STEP`, `LOWEST` and `HIGHEST`, so that sounds of
    any rate are comparable.

    Args:
        samples: float32 `[n]`, -1 to 1.
        rate: Samples per second, from `2 * HIGHEST` to `FASTEST`.
        shape: Number of frames T and of mel bands C.

    Returns:
        float32 `[T, C]`.

    Raises:
        ValueError: The rate is too low or too high.
    """
    if not 2 * HIGHEST <= rate <= FASTEST:
        raise ValueError(
            f"sound must have {2 * HIGHEST:.0f} to {FASTEST} samples per second: resample it to "
            f"16000. Received: {rate}"
        )
    import tensorflow as tf  # for sound alone: `anil adapt` starts without it

    frames, bands = shape
    length, step = round(FRAME * rate), round(STEP * rate)
    needed = length + (frames - 1) * step
    start = max(0, (len(samples) - needed) // 2)
    samples = samples[start : start + needed]
    samples = np.pad(samples, (0, needed - len(samples)))
    spectrum = tf.square(tf.abs(tf.signal.stft(samples, length, step)))
    bins = spectrum.shape[-1]
    power = spectrum / (length * 2 * (bins - 1))  # of any rate alike, by Parseval's theorem
    matrix = tf.signal.linear_to_mel_weight_matrix(bands, bins, rate, LOWEST, HIGHEST)
    return tf.math.log(tf.matmul(power, matrix) + SILENCE).numpy()


def read_window_classes(classes: dict[str, list[Path]], shape: tuple[int, ...]) -> ClassImages:
    """Reads the windows of some classes.

    Args:
        classes: Files of each class, from `folder.list_classes`.
        shape: Moments and channels of a window.
    """
    windows = np.empty((sum(map(len, classes.values())), *shape), np.float32)
    return fill(windows, classes, lambda path: read_window(path, shape), "Reading windows")
