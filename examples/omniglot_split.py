"""Splits of Omniglot as class lists for a recipe.

    python examples/omniglot_split.py LISTS
    python examples/omniglot_split.py LISTS --vinyals JSON_DIR
    anil train --recipe omniglot-20way-1shot --set data.class_lists=LISTS --output RUN

The first command writes the random split of the recipes without 21 of its 423 test characters:
those 21 were validation characters when the recipes were chosen.

The second writes the split of Vinyals et al. (2016): 1,028 characters for training, 172 for
validation, 423 for the test. It is distributed as `train.json`, `val.json` and `test.json`, which
name characters as the original archive does: `{"background": {"Braille": ["character01", ...]},
"evaluation": {...}}`. TFDS names the same character `Braille_0`.
"""

import csv
import json
from pathlib import Path

import click
import numpy as np
import tensorflow_datasets as tfds

from anil_tf.datasets.splits import SPLITS, random_split

SIZES = (1100, 100, 423)


def split_untouched(names: list[str]) -> dict[str, list[str]]:
    """The split of the recipes, without the test characters that helped to choose the recipes.

    Args:
        names: Names of all characters, in the order of TFDS.
    """
    splits = random_split(names, SIZES)
    order = np.random.default_rng(0).permutation(len(names))
    validation = {names[index] for index in order[SIZES[0] : sum(SIZES[:2])]}
    return splits | {"test": [name for name in splits["test"] if name not in validation]}


def read_characters(path: Path) -> list[str]:
    """The characters of one split of Vinyals et al., named as TFDS does."""
    halves = json.loads(path.read_text(encoding="utf-8"))
    return [
        f"{alphabet}_{int(character.removeprefix('character')) - 1}"
        for alphabets in halves.values()
        for alphabet, characters in alphabets.items()
        for character in characters
    ]


@click.command()
@click.argument("lists", metavar="LISTS", type=click.Path(path_type=Path))
@click.option(
    "--vinyals",
    metavar="JSON_DIR",
    type=click.Path(path_type=Path, exists=True),
    help="Folder of train.json, val.json and test.json.",
)
@click.option("--data-dir", envvar="ANIL_DATA_DIR", help="Folder where TFDS keeps Omniglot.")
def main(lists: Path, vinyals: Path | None, data_dir: str | None) -> None:
    """Write a split of Omniglot as class lists."""
    if vinyals:
        splits = {split: read_characters(vinyals / f"{split}.json") for split in SPLITS}
    else:
        labels = tfds.builder("omniglot", data_dir=data_dir).info.features["label"]
        splits = split_untouched(labels.names)
    lists.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        names = splits[split]
        with (lists / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("label",), *((name,) for name in names)])
        click.echo(f"{split}: {len(names)} characters")


if __name__ == "__main__":
    main()
