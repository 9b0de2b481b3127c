"""Accuracy of four known classes before and after a fifth is added to their head.

.venv/bin/python -m benchmarks.growing BUNDLE --data-dir DIR
"""

import tempfile
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from anil_tf.export.head import Head, fit_head, read_head
from anil_tf.export.runtime import open_bundle
from anil_tf.metrics import mean_and_ci95
from anil_tf.support.json_files import write_json
from anil_tf.training.recipe import DataTable, EvaluationTable
from anil_tf.training.samplers import make_sampler

KNOWN = 4  # known classes; one more is added


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="ANIL_DATA_DIR")
@click.option("--episodes", default=600, show_default=True)
@click.option("--shots", default=1, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the results.")
def main(
    bundle: Path, data_dir: Path | None, episodes: int, shots: int, json_file: Path | None
) -> None:
    """Learn four classes, save, add a fifth, and classify queries of all five before and after."""
    runtime = open_bundle(bundle)
    manifest = runtime.manifest
    data = DataTable(**manifest.data)
    protocol = EvaluationTable(**manifest.evaluation | {"ways": KNOWN + 1, "shots": shots})
    classes = data.load(("test",), data_dir)["test"]
    sampler = make_sampler(data, classes, protocol, manifest.seed, "test")

    def accuracy(head: Head, query: np.ndarray, labels: np.ndarray) -> float:
        logits, _ = runtime.predict(query, head.kernel, head.bias)
        return float(np.mean(logits.argmax(axis=1) == labels))

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "head.npz"
        for index in tqdm(range(episodes), "Episodes", disable=None):
            episode = sampler.episode(index)
            support, query = (runtime.features(episode[key]) for key in ("support_x", "query_x"))
            labels = episode["query_y"]
            examples = {
                str(label): support[episode["support_y"] == label] for label in range(KNOWN + 1)
            }
            added = {str(KNOWN): examples.pop(str(KNOWN))}
            four, _ = fit_head(runtime, examples)
            four.write(path)
            grown, _ = fit_head(runtime, read_head(path, manifest).support | added)
            known = labels < KNOWN
            rows.append(
                (
                    accuracy(four, query[known], labels[known]),
                    accuracy(grown, query[known], labels[known]),
                    accuracy(grown, query[~known], labels[~known]),
                )
            )

    names = ("the four, before", "the four, after", "the fifth")
    figures = {}
    for name, values in zip(names, np.array(rows).T, strict=True):
        mean, interval = mean_and_ci95(values)
        figures[name] = {"accuracy": mean, "ci95": interval}
        print(f"{name:<18}{mean:.2%} +- {interval:.2%}")
    write_json(json_file, {"shots": shots, "episodes": episodes, "figures": figures})


if __name__ == "__main__":
    main()
