"""Many clients of a served bundle: errors, agreement with offline results, and speed.

    make bench-serving

Each client learns or predicts at random, over loopback. The server is TensorFlow Serving where
`tensorflow_model_server` is on the PATH, otherwise the tests' Python server, which says nothing
about the speed of TensorFlow Serving. The output names the server.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import click
import numpy as np

from anil_tf.export.client import FewShotClient
from anil_tf.export.head import Head
from anil_tf.export.manifest import Manifest, read_manifest
from anil_tf.export.runtime import open_bundle
from anil_tf.export.serving.files import served_name
from anil_tf.export.serving.transport import ServingError
from anil_tf.support.json_files import write_json
from benchmarks.serving_bundle import make_bundle

PROCESSES = 4  # of clients, so that they do not wait for each other's interpreter
EPISODES, WAYS, SHOTS, QUERIES = 16, 5, 5, 3
LEARN = 0.2  # share of the requests that learn
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

Episode = tuple[np.ndarray, np.ndarray, np.ndarray, Head, np.ndarray]


def make_episodes(bundle: Path, manifest: Manifest) -> list[Episode]:
    """Support images, labels and query images, with the head and probabilities computed offline."""
    runtime = open_bundle(bundle, "saved_model")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(WAYS), SHOTS)
    names = tuple(map(str, range(WAYS)))
    episodes = []
    shape = runtime.image_shape
    for _ in range(EPISODES):
        support = rng.integers(0, 256, (len(labels), *shape), np.uint8)
        query = rng.integers(0, 256, (QUERIES, *shape), np.uint8)
        adapted = runtime.adapt(
            runtime.features(support), labels, *runtime.initial_head(WAYS),
            runtime.inner_lr, runtime.inner_steps,
        )  # fmt: skip
        head = Head.without_support(adapted.kernel, adapted.bias, names, manifest.backbone_sha256)
        _, probabilities = runtime.predict(runtime.features(query), head.kernel, head.bias)
        episodes.append((support, labels, query, head, probabilities))
    return episodes


def ask(
    client: FewShotClient, episodes: list[Episode], seconds: float, seed: int
) -> dict[str, Any]:
    """One client: milliseconds of its calls, and the numbers of errors and wrong results."""
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {"learn": [], "predict": []}
    errors, wrong = [], 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        support, labels, query, head, probabilities = episodes[rng.integers(len(episodes))]
        name = "learn" if rng.random() < LEARN else "predict"
        start = time.perf_counter()
        try:
            if name == "learn":
                learned = client.learn(support, labels)
                right = np.allclose(learned.kernel, head.kernel, **CLOSE)
            else:
                right = np.allclose(client.predict(query, head), probabilities, **CLOSE)
        except ServingError as error:
            errors.append(str(error))
            continue
        times[name].append(1000 * (time.perf_counter() - start))
        wrong += not right
    return {"times": times, "errors": errors, "wrong": wrong}


def ask_many(
    url: str, manifest: Manifest, episodes: list[Episode], seconds: float, seeds: list[int]
) -> list[dict[str, Any]]:
    """The clients of one process, each with its own thread and connection."""
    clients = [FewShotClient(url, manifest) for _ in seeds]
    for client in clients:
        client.call("initial_head", ways=WAYS)
    with futures.ThreadPoolExecutor(len(seeds)) as pool:
        jobs = [
            pool.submit(ask, client, episodes, seconds, seed)
            for client, seed in zip(clients, seeds, strict=True)
        ]
        results = [job.result() for job in jobs]
    for client in clients:
        client.close()
    return results


def resident_megabytes() -> float:
    """Memory of this process, in which the Python server runs."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def summarise(results: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Calls per second, percentiles of their milliseconds, and the errors."""
    errors = [error for result in results for error in result["errors"]]
    figures: dict[str, Any] = {
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "wrong": sum(result["wrong"] for result in results),
    }
    for name in ("learn", "predict"):
        times = np.concatenate([result["times"][name] for result in results])
        figures[name] = {
            "per_second": len(times) / seconds,
            "p50_ms": float(np.percentile(times, 50)),
            "p99_ms": float(np.percentile(times, 99)),
        }
    return figures


@click.command()
@click.option("--clients", default=32, show_default=True)
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--protocol", type=click.Choice(["grpc", "http"]), default="grpc", show_default=True)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, exists=True),
    help="Bundle to serve [default: a small random one]",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the results.")
def main(
    clients: int, seconds: float, protocol: str, bundle: Path | None, json_file: Path | None
) -> None:
    """Send requests to a server for a while, and check every result."""
    from tests.export.serving.server import serve_bundle

    with tempfile.TemporaryDirectory() as temporary:
        bundle = bundle or make_bundle(Path(temporary))
        manifest = read_manifest(bundle)
        episodes = make_episodes(bundle, manifest)
        context = multiprocessing.get_context("spawn")
        with (
            serve_bundle(served_name(manifest.name), bundle) as (server, urls),
            futures.ProcessPoolExecutor(PROCESSES, context) as pool,
        ):
            groups = [list(range(clients))[start::PROCESSES] for start in range(PROCESSES)]
            jobs = [
                pool.submit(ask_many, urls[protocol], manifest, episodes, seconds, group)
                for group in groups
                if group
            ]
            time.sleep(seconds / 4)
            memory = [resident_megabytes()]
            figures = summarise([one for job in jobs for one in job.result()], seconds)
            memory.append(resident_megabytes())
    figures |= {"server": server, "clients": clients, "protocol": protocol, "megabytes": memory}
    print(f"{clients} clients for {seconds:.0f} s over {protocol}, against {server}")
    for name, images in (("learn", WAYS * SHOTS), ("predict", QUERIES)):
        row = figures[name]
        print(
            f"{name:<9}{row['per_second']:>8.1f} a second   p50 {row['p50_ms']:.1f} ms   "
            f"p99 {row['p99_ms']:.1f} ms   ({images} images)"
        )
    print(f"memory   {memory[0]:.0f} MB after a quarter of the time, {memory[1]:.0f} MB at the end")
    print(f"errors {figures['errors']}, wrong answers {figures['wrong']}")
    write_json(json_file, figures)
    if figures["errors"] or figures["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
