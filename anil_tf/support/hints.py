"""Hints for who sits at the command line: what to do next, and what was probably meant."""

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path

import click


def say_next(*words: str | Path) -> None:
    """Says which command of `anil` comes next; on stderr, so that stdout holds results alone."""
    click.echo(f"Next: {shlex.join(['anil', *map(str, words)])}", err=True)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'steps'?"` of the nearest known words, or nothing where none is near.

    A dotted word is near to one that ends like it: `steps` to `training.steps`.
    """
    known = list(known)
    same_end = [name for name in known if name.split(".")[-1] == word.split(".")[-1]]
    near = same_end or difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
