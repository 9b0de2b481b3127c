"""The command line: what it lists, what it imports, and how it words errors."""

import json
import subprocess
import sys

import click
import pydantic
import pytest
from click.testing import CliRunner, Result

from anil_tf.cli import COMMANDS, CommandLine, main


class Table(pydantic.BaseModel, extra="forbid"):
    steps: int = pydantic.Field(default=1, gt=0)
    source: str = "glyphs"

    @pydantic.field_validator("source")
    @classmethod
    def known(cls, source: str) -> str:
        if source != "glyphs":
            raise ValueError(f"source must be glyphs. Received: source={source}")
        return source


class Recipe(pydantic.BaseModel):
    training: Table


def run_failing(error: BaseException) -> Result:
    """The result of a command line whose only command raises the error."""
    group = CommandLine("anil")

    @group.command()
    def fail() -> None:
        raise error

    return CliRunner().invoke(group, ["fail"])


def run_validating(**training: object) -> Result:
    with pytest.raises(pydantic.ValidationError) as caught:
        Recipe(training=training)
    return run_failing(caught.value)


def test_help_lists_every_command_with_its_line():
    lines = CliRunner().invoke(main, ["--help"]).output.splitlines()
    for name, (_, short_help) in COMMANDS.items():
        assert any(line.split() == [name, *short_help.split()] for line in lines), name


def test_help_imports_no_heavy_package():
    program = (
        "import json, sys; from anil_tf.cli import main; main(['--help'], standalone_mode=False);"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    imported = set(json.loads(run.stdout.splitlines()[-1]))
    assert not imported & {"tensorflow", "keras", "numpy", "pydantic", "onnxruntime", "matplotlib"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: main {name} ")


def test_python_m_anil_tf_is_the_command_line():
    run = subprocess.run(
        [sys.executable, "-m", "anil_tf", "--version"], capture_output=True, text=True
    )
    assert run.stdout.startswith("anil, version ")


def test_an_unknown_command_is_answered_with_the_nearest():
    result = CliRunner().invoke(main, ["trian"])
    assert result.exit_code == 2
    assert "'trian'" in result.stderr
    assert "Did you mean 'train'?" in result.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("ways must be at least 2. Received: ways=1"), None),
        (ValueError("first\n  second"), "first second"),
        (ValueError(), "ValueError"),
        (FileNotFoundError("no run at runs/a: train one first"), None),
        (FileNotFoundError(2, "No such file or directory", "a.toml"), "a.toml: No such file or "),
        (IsADirectoryError(21, "Is a directory", "runs"), "runs: Is a directory"),
        (ImportError("The onnx runtime needs: pip install onnxruntime"), None),
    ],
)
def test_the_users_mistake_is_one_line_on_stderr_and_status_2(error, line):
    result = run_failing(error)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {line or error}")
    assert result.stderr.count("\n") == 1


def test_a_validation_error_names_the_key_and_the_value():
    result = run_validating(steps=-1)
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: training.steps: Input should be greater than 0. Received: -1\n"
    )


def test_every_validation_error_is_told():
    assert run_validating(steps="x", step=1).stderr == (
        "Error: training.steps: Input should be a valid integer, unable to parse string as an "
        "integer. Received: 'x'; training.step: Extra inputs are not permitted. Received: 1\n"
    )


def test_a_validators_own_words_are_kept():
    assert run_validating(source="mnist").stderr == (
        "Error: training.source: source must be glyphs. Received: source=mnist\n"
    )


def test_a_missing_table_is_told_without_the_whole_input():
    with pytest.raises(pydantic.ValidationError) as caught:
        Recipe()
    assert run_failing(caught.value).stderr == "Error: training: Field required\n"


@pytest.mark.parametrize("fault", [KeyError("tensor"), ModuleNotFoundError("No module named 'x'")])
def test_a_fault_of_the_program_keeps_its_traceback(fault):
    assert run_failing(fault).exception is fault


def test_clicks_own_errors_pass_unchanged():
    result = run_failing(click.UsageError("--ways and --shots go together"))
    assert result.exit_code == 2
    assert "Error: --ways and --shots go together" in result.stderr


def test_ctrl_c_ends_with_status_130():
    result = run_failing(KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"
