"""Commands that make and measure runs: train, evaluate, datasets."""

from pathlib import Path

import click

from anil_tf.export.runtime import RUNTIMES
from anil_tf.figures import write_json

_PATH = click.Path(path_type=Path)
_data_dir = click.option(
    "--data-dir",
    type=_PATH,
    envvar="ANIL_DATA_DIR",
    help="Where the data lies: a TFDS directory, or the folder of classes. "
    "[env: ANIL_DATA_DIR; default: TFDS's own]",
)
_json = click.option("--json", "json_path", type=_PATH, help="Write the figures to this file.")


@click.command()
@click.option("--recipe", "source", required=True, help="A recipe's name or a TOML file.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe."
)
@_data_dir
@click.option("--output", type=_PATH, required=True, help="The run directory to write.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@_json
def train(
    source: str,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    output: Path,
    resume: bool,
    json_path: Path | None,
) -> None:
    """Meta-train a recipe."""
    from anil_tf.training.recipe import read_recipe

    recipe = read_recipe(source, overrides)
    from anil_tf.training.train import train as train_recipe

    figures = train_recipe(recipe, output, data_dir, resume)
    click.echo(
        f"Trained {recipe.name} for {figures['steps']} steps in {figures['seconds']:.0f} s "
        f"({figures['images_per_second']:.0f} images/s). The run is in {output}"
    )
    click.echo(f"Next: anil evaluate {output}")
    write_json(json_path, figures)


@click.command()
@click.argument("path", metavar="RUN|BUNDLE", type=click.Path(path_type=Path))
@_data_dir
@click.option("--episodes", type=click.IntRange(min=2), help="[default: the recipe's]")
@click.option("--ways", type=click.IntRange(min=1), help="[default: the recipe's]")
@click.option("--shots", type=click.IntRange(min=1), help="[default: the recipe's]")
@click.option("--queries", type=click.IntRange(min=1), help="A class. [default: the recipe's]")
@click.option("--steps", type=click.IntRange(min=0), help="Inner steps. [default: the recipe's]")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test")
@click.option("--seed", type=int, help="Of the episodes. [default: the recipe's]")
@click.option(
    "--runtime",
    type=click.Choice(["keras", *RUNTIMES]),
    metavar="NAME",
    help="keras, or one of `anil verify`. [default: keras for a run, onnx for a bundle]",
)
@click.option("--nil", is_flag=True, help="Without head and inner loop: cosines to the support.")
@_json
def evaluate(
    path: Path,
    data_dir: Path | None,
    episodes: int | None,
    ways: int | None,
    shots: int | None,
    queries: int | None,
    steps: int | None,
    split: str,
    seed: int | None,
    runtime: str | None,
    nil: bool,
    json_path: Path | None,
) -> None:
    """Measure accuracy on unseen classes, before and after adaptation."""
    from anil_tf.training.evaluate import describe, evaluate_path

    chosen = {
        "episodes": episodes,
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "inner_steps": steps,
    }
    overrides = {name: value for name, value in chosen.items() if value is not None}
    figures = evaluate_path(path, data_dir, overrides, split, seed, runtime, nil)
    click.echo(describe(figures))
    write_json(json_path, figures)


@click.command()
@click.argument("run", metavar="RUN", type=_PATH)
@_data_dir
@click.option("--tasks", type=click.IntRange(min=2), default=100, show_default=True)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test")
@_json
def analyze(
    run: Path, data_dir: Path | None, tasks: int, split: str, json_path: Path | None
) -> None:
    """Show what the inner loop changes: rapid learning or feature reuse?"""
    from anil_tf.training.analyze import analyze as analyze_run
    from anil_tf.training.analyze import format_analysis

    figures = analyze_run(run, data_dir, tasks, split)
    click.echo(format_analysis(figures))
    click.echo(f"\nKept in {run / 'analysis.json'} and {run / 'analysis.png'}")
    write_json(json_path, figures)


@click.command()
@click.argument("run", metavar="RUN", type=_PATH)
@_data_dir
@click.option("--bundle", type=_PATH, help="An export of RUN: adds its parity and sizes.")
@click.option("--output", type=_PATH, help="The file to write. [default: RUN/report.html]")
@click.option(
    "--episodes",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    help="For each point of a curve.",
)
@_json
def report(
    run: Path,
    data_dir: Path | None,
    bundle: Path | None,
    output: Path | None,
    episodes: int,
    json_path: Path | None,
) -> None:
    """Write what there is to know of a run into one HTML file."""
    from anil_tf.training.report import write_report

    path = write_report(run, data_dir, bundle, output, episodes, json_path)
    click.echo(
        f"Wrote {path} ({path.stat().st_size / 1e3:.0f} kB). Any browser shows it, also without a "
        "network"
    )


@click.command()
@click.argument("what", type=click.Choice(["paper"]))
@_data_dir
@click.option("--output", type=_PATH, default=Path("paper"), show_default=True)
@click.option("--budget", help="Time for all training, such as 90m or 4h. [default: the full one]")
@_json
def reproduce(
    what: str, data_dir: Path | None, output: Path, budget: str | None, json_path: Path | None
) -> None:
    """Train, test and analyse all of the paper's contrasts on Omniglot, into one report.

    Every stage is a run of its own below the output folder. Called again, with the same budget,
    finished stages are kept and an interrupted one goes on.
    """
    del what
    from anil_tf.training.reproduce import reproduce_paper

    rows = reproduce_paper(output, data_dir, budget)
    click.echo(f"The report is {output / 'report.md'} and {output / 'report.html'}")
    write_json(json_path, rows)


@click.command()
def datasets() -> None:
    """List what can be trained on, and how each is obtained."""
    from anil_tf.training.recipe import read_recipe, recipe_names

    recipes = {name: read_recipe(name) for name in recipe_names()}
    for title, how, chosen in _SOURCES:
        names = [name for name, recipe in recipes.items() if chosen(recipe.data)]
        click.echo(f"{title}\n  {how}\n  recipes: {', '.join(names) or 'your own TOML file'}\n")


_SOURCES = [
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
        "any other TFDS image data set, such as cifar100",
        "A recipe with source = 'tfds', its name, and the TFDS splits to pool (data.subsets).",
        lambda data: data.source == "tfds" and data.name not in ("glyphs", "omniglot"),
    ),
    (
        "sinusoid: sine waves to regress (Finn et al. 2017)",
        "Drawn from the seed.",
        lambda data: data.source == "sinusoid",
    ),
]
