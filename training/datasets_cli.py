"""The command that lists data sets and shows their classes: datasets."""

from collections.abc import Callable
from pathlib import Path

import click

from anil_tf.datasets.pictures import why_left_out
from anil_tf.datasets.splits import FEW_CLASSES, WITHOUT_TRAINING
from anil_tf.datasets.windows import why_no_window
from anil_tf.support.hints import did_you_mean, say_next
from anil_tf.support.quiet import import_tensorflow
from anil_tf.training.cli import PATH, complete_recipe, data_dir_option, say_next_step
from anil_tf.training.recipe import DataTable, read_recipe, recipe_names

# Title, description, and which data tables belong to it.
_SOURCES: list[tuple[str, str, Callable[[DataTable], bool]]] = [
    (
        "glyphs: letters of many scripts",
        "Drawn on your machine from the fonts that matplotlib ships; needs no download.",
        lambda data: data.name == "glyphs",
    ),
    (
        "omniglot: 1,623 handwritten characters (Lake et al. 2015)",
        "TFDS downloads it on first use, or finds it under --data-dir.",
        lambda data: data.name == "omniglot",
    ),
    (
        "a folder of your own classes, mini-ImageNet among them",
        "--data-dir DIR with DIR/class/*.jpg, or train, val and test folders above the classes; "
        "CSV files of classes (data.class_lists) or a seeded random split otherwise.",
        lambda data: data.source == "folder",
    ),
    (
        "windows: sensor data and sound of your own",
        "--data-dir DIR with DIR/class/*.npy, *.csv or *.wav, one window per file; their moments "
        "and channels are data.image_shape.",
        lambda data: data.source == "windows",
    ),
    (
        "any other TFDS image data set, such as cifar100",
        "A recipe with source = 'tfds', its name, and the TFDS splits to pool (data.subsets).",
        lambda data: data.source == "tfds" and data.name not in ("glyphs", "omniglot"),
    ),
    (
        "sinusoid: sine waves to regress (Finn et al. 2017)",
        "Drawn from the seed.",
        lambda data: data.is_regression,
    ),
]


@click.command()
@click.argument("name", required=False, shell_complete=complete_recipe)
@data_dir_option
@click.option("--output", type=PATH, help="Draw some of the classes of NAME to this PNG file.")
def datasets(name: str | None, data_dir: Path | None, output: Path | None) -> None:
    """List what can be trained on, or show the classes of one.

    NAME is a recipe, a data set that a recipe uses, or a folder with one subfolder of images or
    windows per class.
    """
    if name is not None:
        _show_classes(name, data_dir, output)
        return
    if output is not None:
        raise ValueError("--output needs a data set to draw: anil datasets NAME --output FILE.png")
    recipes = {name: read_recipe(name) for name in recipe_names()}
    for title, how, chosen in _SOURCES:
        names = [name for name, recipe in recipes.items() if chosen(recipe.data)]
        click.echo(f"{title}\n  {how}\n  recipes: {', '.join(names) or 'your own TOML file'}\n")
    say_next("datasets", "glyphs", "--output", "glyphs.png")


def _table_of(folder: Path) -> DataTable:
    """How a folder of classes is read: as windows if it has some and no pictures."""
    files = [*folder.glob("*/*"), *folder.glob("*/*/*")]
    if not all(map(why_no_window, files)) and all(map(why_left_out, files)):
        return read_recipe("windows").data
    return DataTable(source="folder", image_shape=(84, 84, 3))


def _show_classes(name: str, data_dir: Path | None, output: Path | None) -> None:
    from anil_tf.training.report.contact_sheet import describe_classes, draw_contact_sheet

    recipes = {known: read_recipe(known) for known in recipe_names()}
    sources = {recipe.data.name: recipe.data for recipe in recipes.values() if recipe.data.name}
    if Path(name).is_dir():
        data, data_dir = _table_of(Path(name)), Path(name)
    elif name in recipes or Path(name).is_file():
        data = read_recipe(name).data
    elif name in sources:
        data = sources[name]
    else:
        known = [*recipes, *sources]
        raise ValueError(
            f"{name!r} is neither a recipe, nor a data set of a recipe, nor a folder."
            f"{did_you_mean(name, known)} List them with: anil datasets"
        )
    if data.is_regression:
        raise ValueError("sinusoid draws sine waves, which have no classes to show")
    if data.source == "tfds":
        import_tensorflow()
    splits = data.load(("train", "val", "test"), data_dir)
    for split, classes in splits.items():
        click.echo(f"{split + ':':<6} {describe_classes(classes)}")
    total = sum(len(classes.names) for classes in splits.values())
    few = Path(name).is_dir() and total < FEW_CLASSES
    if few:
        click.echo(
            f"{total} classes are few: a network needs about {FEW_CLASSES} to learn how to learn "
            f"others. {WITHOUT_TRAINING}"
        )
    if output is None:
        say_next_step("datasets", name, "--output", "classes.png")
        return
    draw_contact_sheet(splits, output)
    click.echo(f"Wrote {output}")
    if few:
        say_next("export", "photos", "--output", "bundle")
        return
    recipe = name if name in recipes else "RECIPE"
    folder = ["--data-dir", name] if Path(name).is_dir() else []
    say_next_step("train", "--recipe", recipe, "--output", "run", *folder)
