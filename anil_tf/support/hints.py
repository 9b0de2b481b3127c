"""Hints on the command line: the next command, and the word that was probably meant."""

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path


def say_next(*words: str | Path) -> None:
    """Prints the next command of `anil` on stderr, so that stdout holds only results."""
    import click  # here, since only commands need it

    click.echo(f"Next: {shlex.join(['anil', *map(str, words)])}", err=True)


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known words that were probably meant; none if no known word is near.

    A dotted word is near to one with the same end: `training.steps` to `steps`.
    """
    known = list(known)
    same_end = [name for name in known if name.split(".")[-1] == word.split(".")[-1]]
    return same_end or difflib.get_close_matches(word, known, n=1, cutoff=0.7)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question such as `" Did you mean 'steps'?"`, or nothing if no known word is near."""
    near = nearest(word, known)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
