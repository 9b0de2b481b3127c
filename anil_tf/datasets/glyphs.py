"""`glyphs`: letters of five scripts, drawn from the DejaVu fonts that matplotlib ships.

A TFDS data set that needs no download. A class is a letter that all 12 faces contain. Accented
letters are left out, because most differ only by a dot or a stroke. Letters that look the same in
any face (Latin A, Greek Alpha, Cyrillic A; c and C) are one class, that of the first script. The
splits do not share scripts: Latin and Cyrillic for training (298 classes), Greek for validation
(31), Armenian and Georgian for the test (98).
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SCRIPTS = {
    "train": ("Latin", "Cyrillic"),
    "validation": ("Greek",),
    "test": ("Armenian", "Georgian"),
}
# Written out, not computed: a label must be the same letter whatever renders it. The tests derive
# the table from the fonts again.
LETTERS = {
    "Latin": (
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghikmnpqrtuyÆÐØÞßæðþđĦħŁłŊŒœŦŧƀƁƂƃƄƅƆƇƊƋƌƍƎƏƐƑƒƓƔ"
        "ƕƖƗƘƙƛƜƝƞƟƢƣƤƥƦƧƩƪƫƬƭƮƱƲƵƷƸƺƻƼƽƾƿǁǂǃǝǶȜȡȤȥȴȵȶȸȹȺȻȽȾȿɀɁɃɄɅɌɍɐɑɒɓɕɖɗɘɚɜɝɞɟɠɢɤɥɦɧɨɪ"
        "ɬɭɮɯɰɱɲɳɵɷɸɹɺɻɼɽɾɿʀʁʂʃʄʆʇʈʉʋʍʎʐʑʓʔʕʖʘʚʛʝʞʠʡʢʣʤʥʦʧʨʩʪʫʬʭʮᴈᴔᴖᴗᴝᴞᴟᵷᵻᶅẟⱤⱮⱯⱵⱷⱹⱾꜦꜧꞌꞍꞐꞑ"
        "Ɦ"
    ),
    "Cyrillic": "ЂЄЉЊЋЏГДЖИЛПФЦЩЪЫЬЭЮЯбдклфчыьђњћѢѣҐґҒғҔҕҖҘҙҚҢҤҪҬҰұҲҺӃӄӈӋӶ",
    "Greek": "ΔΞΨΩβζλμνξςστυχψωϗϘϙϚϝϞϟϠϡϺϻϼϾϿ",
    "Armenian": "ԱԲԳԴԵԶԷԸԹԺԻԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՎՏՐՑՒՔՖդէըթիխծկձճմնշչջվտրփքֆ",
    "Georgian": "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰჱჲჳჴჵჶჷჸჹჺ",
}
DRAWINGS = 20
SIZE = 28
_CANVAS = 4 * SIZE


@functools.cache
def _faces() -> list[Path]:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(path for path in folder.glob("DejaVu*.ttf") if "Display" not in path.name)


@functools.cache
def _font(face: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_faces()[face], 72, layout_engine=ImageFont.Layout.BASIC)


def script_of(name: str) -> str:
    """The script of a class: `"Greek"` for `"Greek_U+03B1"`."""
    return name.split("_")[0]


def letters() -> dict[str, str]:
    """Class name to letter, in the order of the splits' scripts and of the code points."""
    return {
        f"{script}_U+{ord(letter):04X}": letter
        for scripts in SCRIPTS.values()
        for script in scripts
        for letter in LETTERS[script]
    }


def draw(letter: str, number: int) -> np.ndarray:
    """One drawing of a letter, dark on white; letter and number decide every pixel.

    Drawings go through the faces in turn, each turned, sheared, scaled, shifted and its strokes
    thickened or thinned at random.

    Returns:
        uint8 `[28, 28, 1]`.
    """
    rng = np.random.default_rng([ord(letter), number])
    image = Image.new("L", (_CANVAS, _CANVAS))
    font = _font(number % len(_faces()))
    ImageDraw.Draw(image).text((_CANVAS / 2, _CANVAS / 2), letter, 255, font, anchor="mm")
    if stroke := int(rng.integers(-1, 3)):
        kernel = ImageFilter.MinFilter(3) if stroke < 0 else ImageFilter.MaxFilter(2 * stroke + 1)
        left, top, right, bottom = image.getbbox() or (0, 0, _CANVAS, _CANVAS)
        around = (left - 3, top - 3, right + 3, bottom + 3)  # the filter is slow, the ink is small
        image.paste(image.crop(around).filter(kernel), around)

    left, top, right, bottom = image.getbbox() or (0, 0, _CANVAS, _CANVAS)
    angle, shear = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = turn @ np.array([[rng.uniform(0.85, 1.15), shear], [0.0, rng.uniform(0.85, 1.15)]])
    # As large as fits, whatever the jitter, less a random margin.
    extent = np.abs(forward) @ [right - left, bottom - top]
    forward *= rng.uniform(0.68, 0.88) * _CANVAS / extent.max()
    extent = np.abs(forward) @ [right - left, bottom - top]
    slack = (_CANVAS - extent) / 2
    target = _CANVAS / 2 + rng.uniform(-0.5, 0.5, 2) * np.minimum(slack, 0.1 * _CANVAS)
    inverse = np.linalg.inv(forward)
    source = np.array([(left + right) / 2, (top + bottom) / 2]) - inverse @ target
    image = image.transform(
        image.size,
        Image.Transform.AFFINE,
        (*inverse[0], source[0], *inverse[1], source[1]),
        Image.Resampling.BILINEAR,
    )
    small = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    return 255 - np.asarray(small, np.uint8)[..., np.newaxis]


class Glyphs(tfds.core.GeneratorBasedBuilder):
    """Letters of five scripts in 12 faces, 20 jittered drawings each."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Letters of Latin, Cyrillic, Greek, Armenian and Georgian.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(letters())),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict]]]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(scripts) for split, scripts in SCRIPTS.items()}

    def _generate_examples(self, scripts: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
        for name, letter in letters().items():
            if script_of(name) in scripts:
                for number in range(DRAWINGS):
                    # Pillow's encoder is twice as fast as the one TFDS takes for arrays.
                    image = Image.fromarray(draw(letter, number).squeeze(-1))
                    yield f"{name}-{number}", {"image": image, "label": name}
