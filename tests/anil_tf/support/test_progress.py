"""Progress of long work where no bar can be drawn: the tests have no terminal."""

import pytest

from anil_tf.support import progress
from anil_tf.support.progress import duration, track


def test_short_work_is_quiet_without_a_terminal(capsys):
    assert list(track("abc", "Reading")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_long_work_writes_lines_to_stderr(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert len(list(track(range(6), "Evaluating"))) == 6
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Evaluating: 2 of 6, about 1 min left",
        "Evaluating: 4 of 6, about 40 s left",
        "Evaluating: 6 of 6, about 0 s left",
    ]


def test_the_total_may_be_unknown(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(track(iter("a"), "Reading")) == ["a"]
    assert capsys.readouterr().err == "Reading: 1\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.4, "4 s"), (59.9, "1 min"), (95, "2 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_a_duration_is_readable(seconds, text):
    assert duration(seconds) == text
