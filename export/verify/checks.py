"""Compare every runtime of a bundle with the float64 reference, on the episodes that it carries."""

from pathlib import Path

import numpy as np

from anil_tf.export.manifest import Check, Draft, Parity, open_manifest
from anil_tf.export.runtime.base import BundleRuntime
from anil_tf.export.runtime.registry import RUNTIMES, open_bundle
from anil_tf.export.verify.cases import INT8_BOUND, Case, list_cases, measure, measure_rows
from anil_tf.export.verify.episodes import ReferenceEpisodes

TIMED_STEPS = (10, 100)


def verify_bundle(bundle: str | Path | Draft) -> tuple[list[Parity], dict[str, str]]:
    """Check every runtime of `RUNTIMES` that can run what a bundle holds.

    Args:
        bundle: Folder of the bundle, or a bundle whose manifest is not written yet.

    Returns:
        The checks of each runtime, and the runtimes that are not installed, with the reason.

    Raises:
        FileNotFoundError: The folder is not a bundle.
        ValueError: The bundle is damaged.
    """
    folder, manifest = open_manifest(bundle)
    episodes = ReferenceEpisodes.read(folder)
    parity: list[Parity] = []
    skipped: dict[str, str] = {}
    for name, entry in RUNTIMES.items():
        if entry.missing(manifest):
            continue
        try:
            runtime = open_bundle(bundle, name)
        except ImportError as error:
            skipped[name] = str(error)
            continue
        parity.append(check(runtime, episodes))
    return parity, skipped


def check(runtime: BundleRuntime, episodes: ReferenceEpisodes) -> Parity:
    """Check one runtime and, if no case raises an error, measure its accuracy and its speed."""
    if runtime.room:
        episodes = episodes.fit(*runtime.room)
    checks = run_cases(runtime, episodes)
    runs = all(check.difference is not None for check in checks)
    return Parity(
        runtime=runtime.name,
        checks=checks,
        accuracy=_accuracy(runtime, episodes) if runs else None,
        auroc=_auroc(runtime, episodes) if runs else None,
        bytes=sum(map(runtime.manifest.size, runtime.files)),
        milliseconds=_time(runtime, episodes) if runs else {},
        arena_bytes=runtime.arena_bytes,
    )


def run_cases(runtime: BundleRuntime, episodes: ReferenceEpisodes) -> list[Check]:
    """Run every case on a runtime; a check is the worst of its cases over the episodes."""
    checks: dict[str, Check] = {}
    manifest = runtime.manifest
    cases = list_cases(
        episodes, runtime.inner_lr, runtime.inner_steps, manifest.balanced, manifest.temperature
    )
    for case in cases:
        if case.signature in runtime.signatures:
            check = _run_case(runtime, case)
            checks[case.check] = max(
                checks.get(case.check, check), check, key=lambda check: check.share_of_bound
            )
    return list(checks.values())


def _run_case(runtime: BundleRuntime, case: Case) -> Check:
    difference, error = None, ""
    quantized = runtime.precision == "int8" and case.signature == "features"
    try:
        outputs = runtime.run(case.signature, **case.inputs)
        difference = (measure_rows if quantized else measure)(outputs, case.expected)
    except Exception as failure:  # whatever a runtime raises is a finding
        error = " ".join(f"{type(failure).__name__}: {failure}".split())
    bound = max(case.bound, INT8_BOUND) if quantized else case.bound
    return Check(check=case.check, difference=difference, bound=bound, error=error)


def _accuracy(runtime: BundleRuntime, episodes: ReferenceEpisodes) -> float | None:
    if not {"features", "initial_head", "adapt", "predict"} <= runtime.signatures.keys():
        return None
    right = []
    for episode in episodes.each():
        _, logits = runtime.adapt_and_predict(episode, episodes.ways, runtime.inner_steps)
        right.append(np.mean(logits.argmax(axis=1) == episode["query_y"]))
    return float(np.mean(right))


def _auroc(runtime: BundleRuntime, episodes: ReferenceEpisodes) -> float | None:
    """AUROC of an episode's queries against those of the other episode, which has other classes."""
    needed = {"features", "initial_head", "adapt", "predict", "similarity"}
    if len(episodes.query_labels) < 2 or not needed <= runtime.signatures.keys():
        return None
    from anil_tf.metrics import auroc  # needs Keras, which a runtime and its cases do not

    scores: list[np.ndarray] = []
    first, second = episodes.each()
    for episode, other in ((first, second), (second, first)):
        queries = np.concatenate([episode["query_x"], other["query_x"]])
        judged = episode | {"query_x": queries}
        _, logits = runtime.adapt_and_predict(judged, episodes.ways, runtime.inner_steps)
        similar = runtime.similarities(judged, episodes.ways)
        resembled = np.take_along_axis(similar, logits.argmax(axis=1)[:, np.newaxis], axis=1)
        scores.append(resembled[:, 0].reshape(2, -1))
    known, unknown = np.concatenate(scores, axis=1)
    return auroc(known, unknown)


def _time(runtime: BundleRuntime, episodes: ReferenceEpisodes) -> dict[str, float]:
    v = episodes
    head = {"kernel": v.kernel, "bias": v.bias}
    support = v.support_features[0].astype(np.float32)
    query = v.query_features[0].astype(np.float32)
    rows = {"features": support, "labels": v.support_labels[0], "learning_rate": runtime.inner_lr}
    calls = {
        "features": ("features", {"image": v.support_image[0][:1]}),
        **{f"adapt {n}": ("adapt", {**rows, **head, "steps": n}) for n in TIMED_STEPS},
        "predict": ("predict", {"features": query, **head}),
    }
    return {
        name: round(runtime.milliseconds(signature, **inputs), 4)
        for name, (signature, inputs) in calls.items()
        if signature in runtime.signatures
    }


def format_parity(parity: list[Parity]) -> str:
    """A table of runtimes for a terminal; the checks that failed below it."""
    timed = ("features", *(f"adapt {steps}" for steps in TIMED_STEPS), "predict")
    signatures = ("features", "adapt", "predict", "similarity")
    header: list[tuple[str, ...]] = [
        ("", "difference", "", "", "", "", "", "", "ms", "", "", "", ""),
        ("runtime", *signatures, "accuracy", "AUROC", "kB", *timed, ""),
    ]
    rows = [
        (
            p.runtime,
            *(_worst(p.checks, signature) for signature in signatures),
            "-" if p.accuracy is None else f"{p.accuracy:.1%}",
            "-" if p.auroc is None else f"{p.auroc:.3f}",
            f"{p.bytes / 1000:.0f}",
            *(f"{p.milliseconds[name]:.3f}" if name in p.milliseconds else "-" for name in timed),
            "ok" if p.ok else "FAILED",
        )
        for p in parity
    ]
    table = [*header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    failed = [
        f"FAILED {p.runtime}, {c.check}: {c.error or f'{c.difference:.1e}'} (bound {c.bound:.1e})"
        for p in parity
        for c in p.checks
        if not c.ok
    ]
    return "\n".join([*lines, *failed])


def _worst(checks: list[Check], signature: str) -> str:
    """The difference that comes nearest to its bound, of the checks of a signature."""
    found = [check for check in checks if check.check.split(",")[0] == signature]
    if not found:
        return "-"
    worst = max(found, key=lambda check: check.share_of_bound)
    return "error" if worst.difference is None else f"{worst.difference:.1e}"
