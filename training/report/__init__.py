"""`anil report`: one HTML file on a run."""

from typing import TYPE_CHECKING

from anil_tf.support.lazy import hand_on

if TYPE_CHECKING:
    from anil_tf.training.report.page import write_report as write_report

__all__ = ["write_report"]

__getattr__, __dir__ = hand_on(
    __name__, {"write_report": "anil_tf.training.report.page:write_report"}
)
