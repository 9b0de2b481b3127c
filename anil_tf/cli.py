"""The command line `anil`: lists its commands, imports one when it is called, reports its errors.

A command is defined next to the code that it runs (`training/cli.py`, `export/cli.py`). This file
has only its name and its line of help, so `anil --help` needs neither Keras nor TensorFlow.
"""

import errno
import gc
import importlib
import warnings
from typing import Any, TextIO

import click

import anil_tf

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

COMMANDS = {
    "train": ("anil_tf.training.cli:train", "Meta-train a model by a recipe."),
    "evaluate": ("anil_tf.training.cli:evaluate", "Measure a run or a bundle on new classes."),
    "analyze": ("anil_tf.training.cli:analyze", "Show what the inner loop changes in a run."),
    "report": ("anil_tf.training.cli:report", "Write one HTML file on a run, or compare runs."),
    "reproduce": ("anil_tf.training.cli:reproduce", "Repeat the paper's experiments."),
    "export": ("anil_tf.export.cli:export", "Turn a run into a bundle for devices and servers."),
    "verify": ("anil_tf.export.cli:verify", "Hold every runtime of a bundle to the reference."),
    "adapt": ("anil_tf.export.cli:adapt", "Learn new classes from folders of images."),
    "adapt-many": ("anil_tf.export.cli:adapt_many", "Learn many tasks, a head for each."),
    "predict": ("anil_tf.export.cli:predict", "Name the classes of images by an adapted head."),
    "datasets": ("anil_tf.training.datasets_cli:datasets", "List what can be trained on."),
}


class LazyCommand(click.Command):
    """A command's name and line of help; the command itself is imported when it is called.

    Args:
        name: Name that the user types.
        target: Place of the command, as `"module:attribute"`.
        short_help: Line of help in the list of commands.
    """

    def __init__(self, name: str, target: str, short_help: str):
        super().__init__(name, short_help=short_help)
        self.target = target

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The context of the imported command, which Click uses from here on."""
        module, attribute = self.target.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command.make_context(info_name, args, parent=parent, **extra)


class UserError(click.ClickException):
    """A user's mistake, shown as `Error: ...`."""

    exit_code = 2


class CommandLine(click.Group):
    """A group that reports a user's mistake in one line with exit status 2, without a traceback.

    Library code raises `ValueError` and `OSError` for what the user can correct, and a plain
    `ImportError` for a runtime that is not installed. Any other exception is a fault of the program
    and keeps its traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which one uses them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command.

        Raises:
            UserError: The command raised one of these exceptions.
        """
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except click.MissingParameter as error:
            what_it_is = getattr(error.param, "help", None)
            raise click.MissingParameter(what_it_is, error.ctx, error.param) from None
        except (ImportError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # `anil ... | head`: Click exits quietly
            if isinstance(error, ModuleNotFoundError):
                raise
            raise UserError(describe(error)) from error


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Shows a warning in one line, without the place in the code that raised it."""
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)


def describe(error: Exception) -> str:
    """The error in one line.

    A pydantic `ValidationError` becomes `key: what is wrong. Received: value`, with its errors
    joined by semicolons. An error of the operating system becomes `file: what is wrong`.
    """
    # The class is not named here: every start would import pydantic.
    if callable(details := getattr(error, "errors", None)):
        text = "; ".join(_describe_field(field) for field in details())
    elif isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _describe_field(field: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in field["loc"])
    text = field["msg"].removeprefix("Value error, ")
    value = field.get("input")
    # For a missing key the input is the whole table, which would not help.
    if "Received:" not in text and not isinstance(value, dict):
        text = f"{text.rstrip('.')}. Received: {value!r}"
    return f"{key}: {text}" if key else text


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(anil_tf.__version__, prog_name="anil")
def main() -> None:
    """Few-shot learning that ships: meta-train, export, and learn new classes on the device."""
    # TensorFlow makes a million objects that stay. Python would search them for garbage again and
    # again: a tenth of the time of `anil export`.
    gc.set_threshold(50_000, 20, 20)


for _name, (_target, _short_help) in COMMANDS.items():
    main.add_command(LazyCommand(_name, _target, _short_help))
