"""Write a folder of synthetic windows of a motion sensor, to try the recipe `windows`.

python make_windows.py windows/

Each class is a motion: its own mixture of oscillations in six channels. A window shows it from a
random moment on, somewhat faster or slower, stronger or weaker, with noise.
"""

import argparse
from pathlib import Path

import numpy as np

MOMENTS, CHANNELS = 128, 6
PARTS = 3  # oscillations in each channel
NOISE = 0.5


def draw_class(rng: np.random.Generator, windows: int) -> np.ndarray:
    """Windows of one new class, float32 `[windows, 128, 6]`."""
    cycles = rng.uniform(1, 12, (PARTS, 1))
    strengths = rng.normal(size=(PARTS, CHANNELS))
    phases = rng.uniform(0, 2 * np.pi, (PARTS, CHANNELS))
    time = np.linspace(0, 1, MOMENTS)[:, np.newaxis, np.newaxis]
    drawn = []
    for _ in range(windows):
        moment = time * rng.uniform(0.9, 1.1) + rng.uniform()
        clean = (strengths * np.sin(2 * np.pi * cycles * moment + phases)).sum(axis=1)
        drawn.append(clean * rng.uniform(0.7, 1.3) + rng.normal(0, NOISE, clean.shape))
    return np.array(drawn, np.float32)


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--windows", type=int, default=20, help="of each class")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    for number in range(arguments.classes):
        folder = arguments.output / f"motion{number:02}"
        folder.mkdir(parents=True)
        for index, window in enumerate(draw_class(rng, arguments.windows)):
            np.save(folder / f"{index}.npy", window)


if __name__ == "__main__":
    main()
