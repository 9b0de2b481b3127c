"""Draws `docs/gram.png`: the matrices in a step of the plain inner loop and of the Gram form.

python docs/figures.py
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

M, N, D = 0.75, 0.3, 3.2  # on paper: images, classes, features
COLORS = {"X": "#b6d4f5", "w": "#ffd8a8", "S": "#d8f0d8", "G": "#b6d4f5", "A": "#ffd8a8"}
INK = "#1f2328"


def main() -> None:
    """Writes the figure next to this file."""
    figure = Figure(figsize=(9, 6.4))
    figure.patch.set_facecolor("white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 9)
    axes.set_ylim(0, 6.4)
    axes.axis("off")

    _title(axes, 6.1, "A step of the plain loop: D features, twice")
    middle = 4.15
    x = _box(axes, 0.5, middle, D, M, "X", "X", "M × D")
    x = _sign(axes, x, middle, "·")
    x = _box(axes, x, middle, N, D, "w", "w", "D × N")
    x = _sign(axes, x, middle, "=")
    x = _box(axes, x, middle, N, M, "S", "S", "M × N")
    x = _sign(axes, x, middle, "→ R,   w −= ", width=1.15)
    x = _box(axes, x, middle, M, D, "X", "Xᵀ", "D × M")
    x = _sign(axes, x, middle, "·")
    _box(axes, x, middle, N, M, "S", "R", "M × N")

    _title(axes, 1.95, "A step of the Gram form: M images, once, and no D at all")
    middle = 1.0
    x = _sign(axes, 0.5, middle, "R →   A −= R,", width=1.3)
    x = _sign(axes, x, middle, "S = S₀ + ", width=1.0)
    x = _box(axes, x, middle, M, M, "G", "G", "M × M")
    x = _sign(axes, x, middle, "·")
    x = _box(axes, x, middle, N, M, "A", "A", "M × N")
    axes.text(
        x + 0.6,
        middle,
        "once before:  G = X Xᵀ + 1,   S₀ = X w₀ + b₀\n"
        "once after:    w = w₀ + Xᵀ A,   b = b₀ + 1ᵀ A",
        fontsize=11,
        va="center",
        linespacing=1.8,
        color=INK,
    )
    figure.savefig(Path(__file__).parent / "gram.png", dpi=130)


def _title(axes: Axes, y: float, text: str) -> None:
    axes.text(0.5, y, text, fontsize=13, fontweight="bold", color=INK, va="center")


def _box(
    axes: Axes,
    x: float,
    middle: float,
    width: float,
    height: float,
    color: str,
    name: str,
    size: str,
) -> float:
    """A matrix drawn to scale, centred on a line; returns its right edge."""
    patch = Rectangle((x, middle - height / 2), width, height, fc=COLORS[color], ec=INK, lw=1.2)
    axes.add_patch(patch)
    axes.text(x + width / 2, middle, name, fontsize=13, ha="center", va="center", color=INK)
    axes.text(
        x + width / 2,
        middle - height / 2 - 0.12,
        size,
        fontsize=9,
        ha="center",
        va="top",
        color="#59636e",
    )
    return x + width


def _sign(axes: Axes, x: float, middle: float, text: str, width: float = 0.4) -> float:
    """A sign between two matrices; returns the left edge of the next."""
    axes.text(x + width / 2, middle, text, fontsize=13, ha="center", va="center", color=INK)
    return x + width


if __name__ == "__main__":
    main()
