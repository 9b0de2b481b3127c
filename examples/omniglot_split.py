"""The Vinyals split of Omniglot as class lists for a recipe.

    python examples/omniglot_split.py JSON_DIR LISTS
    anil train --recipe omniglot-20way-1shot --set data.class_lists=LISTS --output RUN

The split (Vinyals et al. 2016; 1,028 characters to train, 172 to validate, 423 to test) is
distributed as `train.json`, `val.json` and `test.json`, which name characters as the original
archive does: `{"background": {"Braille": ["character01", ...]}, "evaluation": {...}}`. TFDS names
the same character `Braille_0`.
"""

import csv
import json
from pathlib import Path

import click

from anil_tf.datasets.splits import SPLITS


def read_characters(path: Path) -> list[str]:
    """The characters of one split, named as TFDS does."""
    halves = json.loads(path.read_text(encoding="utf-8"))
    return [
        f"{alphabet}_{int(character.removeprefix('character')) - 1}"
        for alphabets in halves.values()
        for alphabet, characters in alphabets.items()
        for character in characters
    ]


@click.command()
@click.argument("source", metavar="JSON_DIR", type=click.Path(path_type=Path, exists=True))
@click.argument("lists", metavar="LISTS", type=click.Path(path_type=Path))
def main(source: Path, lists: Path) -> None:
    """Write the Vinyals split of Omniglot as class lists."""
    lists.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        names = read_characters(source / f"{split}.json")
        with (lists / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("label",), *((name,) for name in names)])
        click.echo(f"{split}: {len(names)} characters")


if __name__ == "__main__":
    main()
