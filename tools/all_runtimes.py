"""The command line `anil` with the runtimes of the tests: Node, a browser, ONNX's reference.

    python -m tools.all_runtimes evaluate BUNDLE --runtime onnx_web_node --shots 1-10 --queries 10
    python -m tools.all_runtimes evaluate BUNDLE --runtime onnx_web_chromium --data-dir DIR
    python -m tools.all_runtimes verify BUNDLE

The web runtimes need Node, Chromium and the packages that `make web` installs.
"""

from anil_tf.cli import main
from anil_tf.export.runtime import RUNTIMES
from tests.export.more_runtimes import MORE_RUNTIMES

if __name__ == "__main__":
    RUNTIMES.update(MORE_RUNTIMES)
    main()
