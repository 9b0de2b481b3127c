"""Compare every runtime of a bundle with the float64 reference, on the episodes that it carries."""

from pathlib import Path

from anil_tf.export.cases import list_cases, measure
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
    for name in RUNTIMES:
        if not manifest.has(name):
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
        if case.signature not in runtime.signatures:
            continue
        difference, error = None, ""
        try:
            difference = measure(runtime.run(case.signature, **case.inputs), case.expected)
        except Exception as failure:  # noqa: BLE001  whatever a runtime raises is a finding
            error = f"{type(failure).__name__}: {failure}"
        check = Check(
            runtime=runtime.name,
            check=case.check,
            difference=difference,
            bound=case.bound,
            error=error,
        )
        worst = checks.setdefault(case.check, check)
        if worst.ok and (not check.ok or check.difference > worst.difference):
            checks[case.check] = check
    return list(checks.values())


def format_checks(checks: list[Check]) -> str:
    """A table of checks for a terminal."""
    rows = [("runtime", "check", "difference", "bound", "")]
    for check in checks:
        difference = check.error if check.difference is None else f"{check.difference:.1e}"
        verdict = "ok" if check.ok else "FAILED"
        rows.append((check.runtime, check.check, difference, f"{check.bound:.0e}", verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
