"""Commands that make and measure runs: train, evaluate, datasets."""

import os
import re
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from anil_tf.export.runtime import RUNTIMES
from anil_tf.support.hints import did_you_mean, say_next
from anil_tf.support.json_files import write_json
from anil_tf.support.quiet import import_tensorflow

_PATH = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_data_dir = click.option(
    "--data-dir",
    type=_PATH,
    envvar="ANIL_DATA_DIR",
    help="Where the data lies: a TFDS directory, or the folder of classes. "
    "[env: ANIL_DATA_DIR; default: TFDS's own]",
)
_json = click.option("--json", "json_path", type=_PATH, help="Write the figures to this file.")


def _complete_recipe(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of recipes for a shell, or files where no name starts like that."""
    from anil_tf.training.recipe import recipe_names

    names = [name for name in recipe_names() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def _say_next(command: str, *words: str | Path) -> None:
    """As `say_next`, with the --data-dir that was typed."""
    context = click.get_current_context()
    typed = context.get_parameter_source("data_dir") is ParameterSource.COMMANDLINE
    say_next(command, *words, *(["--data-dir", context.params["data_dir"]] if typed else []))


class _Shots(click.ParamType):
    """A number of support images, `5`, or a range of them, `1-10`."""

    name = "K|A-B"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> int | tuple[int, int]:
        """An integer, or the two ends of the range."""
        match = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", str(value))
        if not match or (match[2] and int(match[2]) < int(match[1])):
            self.fail(f"{value!r} is neither a number, such as 5, nor a range, such as 1-10.")
        return (int(match[1]), int(match[2])) if match[2] else int(match[1])


class _Train(click.Command):
    """Tells who types `--steps 5` of `--set training.steps=5`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments; see Click."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from anil_tf.training.recipe import recipe_keys

            word = error.option_name.lstrip("-").replace("-", "_")
            if hint := did_you_mean(word, recipe_keys()):
                hint = hint.replace("you mean", "you mean --set KEY=VALUE with the key")
                raise click.UsageError(
                    f"No such option {error.option_name!r}.{hint}", ctx
                ) from None
            raise


@click.command(cls=_Train)
@click.option(
    "--recipe",
    "source",
    required=True,
    help="A recipe's name or a TOML file.",
    shell_complete=_complete_recipe,
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe."
)
@_data_dir
@click.option("--output", type=_PATH, required=True, help="The run directory to write.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; begin it if need be.")
@click.option(
    "--strategy",
    type=click.Choice(["none", "mirrored", "multiworker"]),
    default="none",
    show_default=True,
    help="Share the tasks of a meta-batch among this machine's GPUs, or TF_CONFIG's workers.",
)
@_json
def train(
    source: str,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    output: Path,
    resume: bool,
    strategy: str,
    json_path: Path | None,
) -> None:
    """Meta-train a recipe."""
    from anil_tf.training.recipe import read_recipe

    recipe = read_recipe(source, overrides)
    if recipe.training.deterministic:
        # oneDNN's kernels add up in the order in which threads finish; read at TensorFlow's import.
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    import_tensorflow()
    from anil_tf.training.train import train as train_recipe

    figures = train_recipe(recipe, output, data_dir, resume, strategy)
    click.echo(
        f"Trained {recipe.name} for {figures['steps']} steps in {figures['seconds']:.0f} s "
        f"({figures['images_per_second']:.0f} images/s). The run is in {output}"
    )
    write_json(json_path, figures)
    _say_next("evaluate", output)


@click.command()
@click.argument("path", metavar="RUN|BUNDLE", type=_FOLDER)
@_data_dir
@click.option("--episodes", type=click.IntRange(min=2), help="[default: the recipe's]")
@click.option("--ways", type=click.IntRange(min=1), help="[default: the recipe's]")
@click.option(
    "--shots",
    type=_Shots(),
    help="Support images per class; 1-10 draws a number from 1 to 10 for each class. "
    "[default: the recipe's]",
)
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
    shots: int | tuple[int, int] | None,
    queries: int | None,
    steps: int | None,
    split: str,
    seed: int | None,
    runtime: str | None,
    nil: bool,
    json_path: Path | None,
) -> None:
    """Measure accuracy on unseen classes, before and after adaptation."""
    import_tensorflow()
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
    if (path / "manifest.json").is_file():
        say_next("adapt", path, "--support", "DIR", "--output", "head.npz")
    elif "mse" not in figures and figures["norm"] == "batch":
        say_next("export", path, "--output", "BUNDLE")
    elif "mse" not in figures:  # which is not exported
        _say_next("analyze", path)


@click.command()
@click.argument("run", metavar="RUN", type=_FOLDER)
@_data_dir
@click.option("--tasks", type=click.IntRange(min=2), default=100, show_default=True)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test")
@_json
def analyze(
    run: Path, data_dir: Path | None, tasks: int, split: str, json_path: Path | None
) -> None:
    """Show what the inner loop changes: rapid learning or feature reuse?"""
    import_tensorflow()
    from anil_tf.training.analyze import analyze as analyze_run
    from anil_tf.training.analyze import format_analysis

    figures = analyze_run(run, data_dir, tasks, split)
    click.echo(format_analysis(figures))
    click.echo(f"\nKept in {run / 'analysis.json'} and {run / 'analysis.png'}")
    write_json(json_path, figures)
    _say_next("reproduce", "paper", "--budget", "4h")


@click.command()
@click.argument("run", metavar="RUN", type=_FOLDER)
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
    import_tensorflow()
    from anil_tf.training.report import write_report

    path = write_report(run, data_dir, bundle, output, episodes, json_path)
    click.echo(
        f"Wrote {path} ({path.stat().st_size / 1e3:.0f} kB). Any browser shows it, also without a "
        "network"
    )


@click.command()
@click.argument("study", type=click.Choice(["paper", "options"]))
@_data_dir
@click.option("--output", type=_PATH, help="Where runs and report go. [default: the study's name]")
@click.option("--budget", help="Time for all training, such as 90m or 4h. [default: the full one]")
@_json
def reproduce(
    study: str,
    data_dir: Path | None,
    output: Path | None,
    budget: str | None,
    json_path: Path | None,
) -> None:
    """Repeat a whole study on Omniglot, into one report.

    paper: all contrasts of "Rapid Learning or Feature Reuse?", trained, tested and analysed.
    options: what each option of a recipe is worth.

    Every stage is a run of its own below the output folder. Called again, with the same budget,
    finished stages are kept and an interrupted one goes on.
    """
    import_tensorflow()
    from anil_tf.training.study.reproduce import STUDIES
    from anil_tf.training.study.reproduce import reproduce as reproduce_study

    output = output or Path(study)
    rows = reproduce_study(STUDIES[study], output, data_dir, budget)
    click.echo(f"The report is {output / 'report.md'} and {output / 'report.html'}")
    write_json(json_path, rows)


@click.command()
@click.argument("name", required=False, shell_complete=_complete_recipe)
@_data_dir
@click.option("--output", type=_PATH, help="Draw some classes of NAME into this PNG.")
def datasets(name: str | None, data_dir: Path | None, output: Path | None) -> None:
    """List what can be trained on, or show the classes of one.

    NAME is a recipe, a data set of one, or a folder with a folder of images for each class.
    """
    if name is not None:
        _show_classes(name, data_dir, output)
        return
    if output is not None:
        raise ValueError("Say what to draw: anil datasets NAME --output FILE.png")
    from anil_tf.training.recipe import read_recipe, recipe_names

    recipes = {name: read_recipe(name) for name in recipe_names()}
    for title, how, chosen in _SOURCES:
        names = [name for name, recipe in recipes.items() if chosen(recipe.data)]
        click.echo(f"{title}\n  {how}\n  recipes: {', '.join(names) or 'your own TOML file'}\n")
    say_next("datasets", "glyphs", "--output", "glyphs.png")


def _show_classes(name: str, data_dir: Path | None, output: Path | None) -> None:
    from anil_tf.training.recipe import Data, read_recipe, recipe_names
    from anil_tf.training.report.contact_sheet import describe_classes, draw_contact_sheet

    recipes = {known: read_recipe(known) for known in recipe_names()}
    sources = {recipe.data.name: recipe.data for recipe in recipes.values() if recipe.data.name}
    if Path(name).is_dir():
        data, data_dir = Data(source="folder", image_shape=(84, 84, 3)), Path(name)
    elif name in recipes or Path(name).is_file():
        data = read_recipe(name).data
    elif name in sources:
        data = sources[name]
    else:
        known = [*recipes, *sources]
        raise ValueError(
            f"{name!r} is no recipe, no data set of one and no folder."
            f"{did_you_mean(name, known)} `anil datasets` lists what there is"
        )
    if data.source == "sinusoid":
        raise ValueError("sinusoid draws waves: there are no classes to show")
    if data.source == "tfds":
        import_tensorflow()
    splits = data.load(("train", "val", "test"), data_dir)
    for split, classes in splits.items():
        click.echo(f"{split + ':':<6} {describe_classes(classes)}")
    if output is None:
        _say_next("datasets", name, "--output", "classes.png")
        return
    draw_contact_sheet(splits, output)
    click.echo(f"Wrote {output}")
    recipe = name if name in recipes else "RECIPE"
    folder = ["--data-dir", name] if Path(name).is_dir() else []
    _say_next("train", "--recipe", recipe, "--output", "run", *folder)


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
