"""From a recipe to a trained run."""

from typing import TYPE_CHECKING

from anil_tf.support.lazy import hand_on

if TYPE_CHECKING:
    from anil_tf.training.analyze import analyze as analyze_run
    from anil_tf.training.evaluate import describe as describe
    from anil_tf.training.evaluate import evaluate_path as evaluate_path
    from anil_tf.training.recipe import read_recipe as read_recipe
    from anil_tf.training.report import write_report as write_report
    from anil_tf.training.scoring.open_set import measure_acceptance as measure_acceptance
    from anil_tf.training.train import train as train_recipe

_TARGETS = {
    "read_recipe": "anil_tf.training.recipe:read_recipe",
    "train_recipe": "anil_tf.training.train:train",
    "evaluate_path": "anil_tf.training.evaluate:evaluate_path",
    "describe": "anil_tf.training.evaluate:describe",
    "measure_acceptance": "anil_tf.training.scoring.open_set:measure_acceptance",
    "analyze_run": "anil_tf.training.analyze:analyze",
    "write_report": "anil_tf.training.report:write_report",
}

__all__ = [
    "analyze_run",
    "describe",
    "evaluate_path",
    "measure_acceptance",
    "read_recipe",
    "train_recipe",
    "write_report",
]

__getattr__, __dir__ = hand_on(__name__, _TARGETS)
