"""Hints for the user of the command line: what to do next, and what was probably meant."""

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path

import click


def say_next(*words: str | Path) -> None:
    """Says which command of `anil` comes next; on stderr, so that stdout holds results alone."""
    click.echo(f"Next: {shlex.join(['anil', *map(str, words)])}", err=True)


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known words that were probably meant; none where no word is similar.

    A dotted word is similar to a word that ends like it: `training.steps` to `steps`.
    """
    known = list(known)
    same_end = [name for name in known if name.split(".")[-1] == word.split(".")[-1]]
    return same_end or difflib.get_close_matches(word, known, n=1, cutoff=0.7)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'steps'?"` with the nearest known words, or nothing where none is similar."""
    near = nearest(word, known)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
