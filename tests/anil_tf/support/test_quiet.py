"""What native libraries say is kept from the user, unless the program is at fault."""

import os
import subprocess
import sys

import pytest

from anil_tf.support.quiet import stderr_suppressed


def test_tensorflow_is_imported_without_a_word():
    program = (
        "import sys; from anil_tf.support.quiet import import_tensorflow; import_tensorflow()\n"
        "assert 'tensorflow' in sys.modules"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("error", "shown"), [(ValueError, ""), (KeyError, "a note\n")])
def test_a_fault_shows_what_was_said_and_a_mistake_does_not(capfd, error, shown):
    with pytest.raises(error), stderr_suppressed():
        os.write(2, b"a note\n")
        raise error
    assert capfd.readouterr().err == shown
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"
