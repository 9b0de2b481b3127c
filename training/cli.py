"""Commands that make and measure runs: train, evaluate, analyze, report, reproduce."""

import os
import re
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from anil_tf.export.runtime import RUNTIMES
from anil_tf.support.hints import nearest, say_next
from anil_tf.support.json_files import write_json
from anil_tf.support.quiet import import_tensorflow

PATH = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
data_dir_option = click.option(
    "--data-dir",
    type=PATH,
    envvar="ANIL_DATA_DIR",
    help="Where the data is: a TFDS directory, or the folder of classes. "
    "[env: ANIL_DATA_DIR; default: TFDS's own]",
)
_set = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe."
)
_json = click.option("--json", "json_path", type=PATH, help="Write the measurements to this file.")


def complete_recipe(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Completes a recipe's name; completes file names where no recipe's name starts like that."""
    from anil_tf.training.recipe import recipe_names

    names = [name for name in recipe_names() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def say_next_step(command: str, *words: str | Path) -> None:
    """Says which command comes next, with the `--data-dir` that was typed."""
    context = click.get_current_context()
    typed = context.get_parameter_source("data_dir") is ParameterSource.COMMANDLINE
    say_next(command, *words, *(["--data-dir", context.params["data_dir"]] if typed else []))


class _Shots(click.ParamType):
    """A number of support images per class, such as `5`, or a range, such as `1-10`."""

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
    """Suggests `--set training.steps=VALUE` to a user who types `--steps 5`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments; see Click."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from anil_tf.training.recipe import recipe_keys

            word = error.option_name.lstrip("-").replace("-", "_")
            keys = nearest(word, recipe_keys())
            if not keys:
                raise
            options = " or ".join(f"--set {key}=VALUE" for key in keys)
            raise click.UsageError(
                f"No such option {error.option_name!r}. To change the recipe: {options}", ctx
            ) from None


@click.command(cls=_Train)
@click.option(
    "--recipe",
    "source",
    required=True,
    help="A recipe's name or a TOML file.",
    shell_complete=complete_recipe,
)
@_set
@data_dir_option
@click.option("--output", type=PATH, required=True, help="The run directory to write.")
@click.option("--resume", is_flag=True, help="Resume an interrupted run, or start it.")
@click.option(
    "--strategy",
    type=click.Choice(["none", "mirrored", "multiworker"]),
    default="none",
    show_default=True,
    help="Divide each meta-batch among this machine's GPUs (mirrored) or the workers in TF_CONFIG.",
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
    """Meta-train the model of a recipe."""
    from anil_tf.training.recipe import read_recipe

    recipe = read_recipe(source, overrides)
    if recipe.training.deterministic:
        # oneDNN's kernels add up in the order in which threads finish; read at TensorFlow's import.
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    import_tensorflow()
    from anil_tf.training.train import train as train_recipe

    figures = train_recipe(recipe, output, data_dir=data_dir, resume=resume, strategy=strategy)
    speed = f" ({rate:.0f} images/s)" if (rate := figures["images_per_second"]) else ""
    click.echo(
        f"Trained {recipe.name} for {figures['steps']} steps in {figures['seconds']:.0f} s{speed}. "
        f"The run is in {output}"
    )
    if "val_accuracy_before" in figures:
        click.echo(
            f"Accuracy on the validation classes: {figures['val_accuracy_before']:.2%} before "
            f"training, {figures['val_accuracy']:.2%} after"
        )
    write_json(json_path, figures)
    say_next_step("evaluate", output)


@click.command()
@click.argument("path", metavar="RUN|BUNDLE", type=_FOLDER)
@data_dir_option
@click.option("--episodes", type=click.IntRange(min=2), help="[default: the recipe's]")
@click.option("--ways", type=click.IntRange(min=1), help="[default: the recipe's]")
@click.option(
    "--shots",
    type=_Shots(),
    help="Support images per class; 1-10 draws a number from 1 to 10 for each class. "
    "[default: the recipe's]",
)
@click.option(
    "--queries", type=click.IntRange(min=1), help="Query images per class. [default: the recipe's]"
)
@click.option("--steps", type=click.IntRange(min=0), help="Inner steps. [default: the recipe's]")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test")
@click.option("--seed", type=int, help="Seed for drawing episodes. [default: the recipe's]")
@click.option(
    "--runtime",
    type=click.Choice(["keras", *RUNTIMES]),
    metavar="NAME",
    help="keras, or a runtime that `anil verify` lists. [default: keras for a run, onnx for a "
    "bundle]",
)
@click.option(
    "--nil",
    is_flag=True,
    help="Classify without head and inner loop, by cosine similarity to the support images.",
)
@click.option(
    "--open-set",
    is_flag=True,
    help="Also classify images of as many unknown classes: how many of them are accepted?",
)
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
    open_set: bool,
    json_path: Path | None,
) -> None:
    """Measure accuracy on unseen classes, before and after adaptation."""
    import_tensorflow()
    from anil_tf.embedding import EXPORTED_NORMS
    from anil_tf.training.evaluate import describe, evaluate_path

    chosen = {
        "episodes": episodes,
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "inner_steps": steps,
    }
    overrides = {name: value for name, value in chosen.items() if value is not None}
    figures = evaluate_path(
        path,
        data_dir=data_dir,
        overrides=overrides,
        split=split,
        seed=seed,
        runtime=runtime,
        nil=nil,
        open_set=open_set,
    )
    click.echo(describe(figures))
    write_json(json_path, figures)
    if (path / "manifest.json").is_file():
        say_next("adapt", path, "--support", "DIR", "--output", "head.npz")
    elif "mse" not in figures and figures["norm"] in EXPORTED_NORMS:
        say_next("export", path, "--output", "BUNDLE")
    elif "mse" not in figures:  # such a norm is not exported
        say_next_step("analyze", path)


@click.command()
@click.argument("run", metavar="RUN", type=_FOLDER)
@data_dir_option
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

    figures = analyze_run(run, data_dir=data_dir, tasks=tasks, split=split)
    click.echo(format_analysis(figures))
    click.echo(f"\nSaved in {run / 'analysis.json'} and {run / 'analysis.png'}")
    write_json(json_path, figures)
    say_next_step("reproduce", "paper", "--budget", "4h")


@click.command()
@click.argument("runs", metavar="RUN [OTHER]...", nargs=-1, required=True, type=_FOLDER)
@data_dir_option
@click.option("--bundle", type=PATH, help="Bundle exported from RUN: adds its formats and sizes.")
@click.option(
    "--output",
    type=PATH,
    help="The file to write. [default: RUN/report.html, for several RUN/comparison.html]",
)
@click.option(
    "--episodes",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    help="Episodes for each point of a curve.",
)
@_json
def report(
    runs: tuple[Path, ...],
    data_dir: Path | None,
    bundle: Path | None,
    output: Path | None,
    episodes: int,
    json_path: Path | None,
) -> None:
    """Write one HTML file with everything about a run, or with several runs side by side.

    The comparison of several runs shows what `anil train` and `anil evaluate` have recorded.
    """
    if len(runs) > 1 and bundle:
        raise ValueError("--bundle belongs to one run: report that run alone")
    import_tensorflow()
    if len(runs) > 1:
        from anil_tf.training.report.compare import write_comparison

        path = write_comparison(runs, output, json_path)
    else:
        from anil_tf.training.report import write_report

        path = write_report(
            runs[0],
            data_dir=data_dir,
            bundle=bundle,
            output=output,
            episodes=episodes,
            json_path=json_path,
        )
    click.echo(
        f"Wrote {path} ({path.stat().st_size / 1e3:.0f} kB). Any browser opens it, without a "
        "network connection"
    )


@click.command()
@click.argument("study", type=click.Choice(["paper", "options"]))
@click.option(
    "--dataset",
    type=click.Choice(["omniglot", "mini-imagenet"]),
    default="omniglot",
    show_default=True,
    help="What to train on. mini-imagenet is a folder of classes: --data-dir.",
)
@data_dir_option
@click.option(
    "--output",
    type=PATH,
    help="Folder for runs and report. [default: the study's name, and the data set's if it is "
    "not omniglot]",
)
@_set
@click.option(
    "--budget",
    help="Time for all that is run, such as 90m or 4h, on two cores. [default: the full study]",
)
@_json
def reproduce(
    study: str,
    dataset: str,
    data_dir: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    budget: str | None,
    json_path: Path | None,
) -> None:
    """Repeat a whole study and write one report.

    paper: the experiments of "Rapid Learning or Feature Reuse?": trained, tested and analysed.
    options: what each option of a recipe gains or costs, on Omniglot.

    Every stage is a run of its own in the output folder. Repeat the command with the same options
    to continue: finished stages are kept, and an interrupted one resumes. --set changes the recipe
    of every run.
    """
    import_tensorflow()
    from anil_tf.training.study.reproduce import STUDIES
    from anil_tf.training.study.reproduce import reproduce as reproduce_study

    studies = STUDIES[study]
    if dataset not in studies:
        raise ValueError(f"The study {study} is of {', '.join(studies)}. Received: {dataset}")
    output = output or Path(study if dataset == "omniglot" else f"{study}-{dataset}")
    rows = reproduce_study(studies[dataset], output, data_dir, budget, overrides)
    click.echo(f"The report is {output / 'report.md'} and {output / 'report.html'}")
    write_json(json_path, rows)
