"""Compare every runtime of a bundle with the float64 reference, on the episodes that it carries."""

import math
from pathlib import Path

from anil_tf.export.cases import INT8_BOUND, Case, list_cases, measure
from anil_tf.export.manifest import Check, read_manifest
from anil_tf.export.runtime import RUNTIMES, BundleRuntime, open_bundle
from anil_tf.export.verification import Verification


def verify_bundle(bundle: str | Path) -> tuple[list[Check], dict[str, str]]:
    """Check every format that a bundle holds.

    Args:
        bundle: Folder of the bundle.

    Returns:
        The checks made, and the runtimes that are not installed, with the reason.

    Raises:
        FileNotFoundError: The folder is not a bundle.
        ValueError: The bundle is damaged.
    """
    manifest = read_manifest(Path(bundle))
    verification = Verification.read(Path(bundle))
    checks: list[Check] = []
    skipped: dict[str, str] = {}
    for name, entry in RUNTIMES.items():
        if entry.file not in manifest.files:
            continue
        try:
            runtime = open_bundle(bundle, name)
        except ImportError as error:
            skipped[name] = str(error)
            continue
        checks += check_runtime(runtime, verification)
    return checks, skipped


def check_runtime(runtime: BundleRuntime, verification: Verification) -> list[Check]:
    """Run every case on a runtime; a check is the worst of its cases over the episodes."""
    checks: dict[str, Check] = {}
    for case in list_cases(verification, runtime.inner_lr, runtime.inner_steps):
        if case.signature in runtime.signatures:
            check = _check(runtime, case)
            checks[case.check] = max(checks.get(case.check, check), check, key=_share_of_bound)
    return list(checks.values())


def _check(runtime: BundleRuntime, case: Case) -> Check:
    difference, error = None, ""
    quantized = runtime.precision == "int8" and case.signature == "features"
    try:
        difference = measure(runtime.run(case.signature, **case.inputs), case.expected)
    except Exception as failure:  # whatever a runtime raises is a finding
        error = " ".join(f"{type(failure).__name__}: {failure}".split())
    return Check(
        runtime=runtime.name,
        check=case.check,
        difference=difference,
        bound=max(case.bound, INT8_BOUND) if quantized else case.bound,
        error=error,
    )


def _share_of_bound(check: Check) -> float:
    return math.inf if check.difference is None else check.difference / check.bound


def format_checks(checks: list[Check]) -> str:
    """A table of checks for a terminal."""
    rows = [("runtime", "check", "difference", "bound", "")]
    for check in checks:
        difference = check.error if check.difference is None else f"{check.difference:.1e}"
        verdict = "ok" if check.ok else "FAILED"
        rows.append((check.runtime, check.check, difference, f"{check.bound:.1e}", verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
