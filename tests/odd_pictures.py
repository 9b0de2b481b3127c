"""Small pictures as phones and people store them, each with the pixels that are meant."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 36
# How an upright picture is stored under each EXIF orientation.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}
PNG_COLORS = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels


def ramp(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A colour picture uint8 `[H, W, 3]`, different from each of its mirror images."""
    y, x = np.mgrid[:height, :width] / [[[max(height - 1, 1)]], [[max(width - 1, 1)]]]
    return np.stack([255 * x, 255 * y, 255 * (1 - x) * y], axis=-1).round().astype(np.uint8)


def shades(bits: int) -> np.ndarray:
    """All the values of so many bits, and some of 16: integers `[H, W]`."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH))
    values[0, :2] = 0, 2**bits - 1
    return values


def blend(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Pixels `[H, W, C]` of opacity alpha `[H, W]`, 0 to 255, over white."""
    share = alpha[..., np.newaxis] / 255
    return np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., np.newaxis], 3, axis=-1).astype(np.uint8)


def write_png(path: Path, pixels: np.ndarray, bits: int, **chunks: bytes) -> None:
    """A PNG of any bit depth, which Pillow does not write."""
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    height, width, channels = pixels.shape
    if bits == 16:
        rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        split = (pixels[..., np.newaxis] >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(split.astype(np.uint8).reshape(height, -1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, PNG_COLORS[channels], 0, 0, 0)
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(content), "IEND": b""}
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in parts.items():
            body = name.encode() + data
            file.write(struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body)))


def write_odd_pictures(folder: Path) -> dict[str, np.ndarray]:
    """Write them; the upright pixels uint8 `[H, W, 3]` that each file means, by file name."""
    means: dict[str, np.ndarray] = {}
    colour, alpha = ramp(), shades(8).astype(np.uint8)
    picture = Image.fromarray(colour)

    def save(image: Image.Image, name: str, meant: np.ndarray, **options: object) -> None:
        image.save(folder / name, **options)
        means[name] = meant

    for orientation, store in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.ascontiguousarray(store(colour)))
        save(stored, f"turned{orientation}.jpg", colour, exif=exif, quality=98, subsampling=0)
        save(stored, f"turned{orientation}.png", colour, exif=exif)
    save(stored, "turned8.webp", colour, exif=exif, lossless=True)
    save(stored, "turned8.tif", colour, exif=exif)

    for bits in (1, 2, 4, 8, 16):
        values = shades(bits)
        meant = values >> 8 if bits == 16 else values * 255 // (2**bits - 1)
        write_png(folder / f"grey{bits}.png", values, bits)
        means[f"grey{bits}.png"] = grey(meant)
    save(Image.fromarray(shades(16).astype(np.uint16)), "grey16.tif", grey(shades(16) >> 8))
    deep = np.stack([shades(16), shades(16)[::-1], shades(16)[:, ::-1]], axis=-1)
    write_png(folder / "colour16.png", deep, 16)
    means["colour16.png"] = (deep >> 8).astype(np.uint8)
    for bits in (1, 2, 4, 8):
        table = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), np.uint8)
        indexed = Image.fromarray(shades(bits).astype(np.uint8))
        indexed.putpalette(table.tobytes())
        save(indexed, f"palette{bits}.png", table[shades(bits)], bits=bits)
    opacity = np.arange(256, dtype=np.uint8)[::-1]
    meant = blend(table[shades(8)], opacity[shades(8)])
    save(indexed, "palette_alpha.png", meant, transparency=opacity.tobytes())

    rgba = Image.fromarray(np.dstack([colour, alpha]))
    save(rgba, "alpha.png", blend(colour, alpha))
    save(rgba, "alpha.webp", blend(colour, alpha), lossless=True, exact=True)
    save(rgba, "alpha.tif", blend(colour, alpha))
    hole = np.where(alpha < 128, 0, 255).astype(np.uint8)
    save(Image.fromarray(np.dstack([colour, hole])), "hole.png", blend(colour, hole))
    light = grey(colour[..., 0])
    both = Image.fromarray(np.dstack([colour[..., 0], alpha]), mode=None)
    save(both, "grey_alpha.png", blend(light, alpha))
    for name, values, bits, color in (
        ("key_grey.png", colour[..., 0], 8, struct.pack(">H", colour[3, 3, 0])),
        ("key_grey16.png", shades(16), 16, struct.pack(">H", shades(16)[3, 3])),
        ("key_colour.png", colour, 8, struct.pack(">3H", *colour[3, 3])),
    ):
        write_png(folder / name, values, bits, tRNS=color)
        pixels = values.reshape(HEIGHT, WIDTH, -1)
        keyed = np.where((pixels == pixels[3, 3]).all(axis=-1), 0, 255)
        means[name] = blend(grey(values >> 8) if bits == 16 else pixels + 0 * colour, keyed)

    save(picture.convert("L"), "grey.jpg", grey(np.asarray(picture.convert("L"))), quality=98)
    cmyk = Image.fromarray(np.dstack([255 - colour, np.full_like(alpha, 40)]), mode="CMYK")
    save(cmyk, "cmyk.jpg", np.rint(colour * (215 / 255)).astype(np.uint8), quality=98)
    save(cmyk, "cmyk.tif", np.rint(colour * (215 / 255)).astype(np.uint8))
    save(picture, "picture.bmp", colour)
    later = [Image.fromarray(255 - colour)]
    flat = picture.quantize(64)
    save(flat, "animated.gif", np.asarray(flat.convert("RGB")), save_all=True, append_images=later)
    save(picture, "animated.png", colour, save_all=True, append_images=later)
    lossless = {"save_all": True, "append_images": later, "lossless": True}
    save(picture, "animated.webp", colour, **lossless)
    save(Image.fromarray(ramp(90, 3)), "tall.png", ramp(90, 3))
    save(Image.fromarray(ramp(3, 90)), "wide.png", ramp(3, 90))
    return means
