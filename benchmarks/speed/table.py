"""The measurements of a workload as Markdown."""

from typing import Any

from benchmarks.speed.worker import HALF
from benchmarks.speed.workloads import WORKLOADS

Rows = dict[str, dict[str, Any]]


def fastest(rows: Rows, prefix: str, what: str, statistic: str, norms: tuple[str, ...]) -> str:
    """The name of the fastest row of a framework in float32, or "" if there is none."""
    chosen = [
        name
        for name, row in rows.items()
        if name.startswith(prefix)
        and row["norm"] in norms
        and what in row
        and not set(HALF) & set(name.split("-"))
    ]
    return min(chosen, key=lambda name: rows[name][what][statistic], default="")


def ratio(rows: Rows, slow: str, quick: str, what: str) -> str:
    """Ratio of speeds of two rows, by medians and by minima."""
    if any(what not in rows.get(name, {}) for name in (slow, quick)):
        return "not measured"
    median, minimum = (
        rows[slow][what][each] / rows[quick][what][each] for each in ("median", "minimum")
    )
    return f"{median:.2f} ({minimum:.2f})"


def markdown(result: dict[str, Any]) -> str:
    """A table of all implementations of one workload, and the main ratios."""
    rows: Rows = {row["name"]: row for row in result["implementations"]}
    pair: Rows = {row["name"]: row for row in result["against_maml"]}
    images, firsts = result["images"], result["first_steps"]
    lines = [
        f"**{result['workload']}**: {WORKLOADS[result['workload']].describe()}, on "
        f"{result['device']}",
        "",
        "| implementation | norm | images/s, median | best | step, ms | adapt and predict, ms |"
        + (" first step, s |" if firsts else ""),
        "|---|---|---|---|---|---|" + ("---|" if firsts else ""),
    ]
    for name, row in [*rows.items(), *((f"{name}, as a pair", pair[name]) for name in pair)]:
        if "train" not in row:
            why = "does not run here" if row.get("failed") else "not timed: its gradient differs"
            lines.append(f"| {name} | {row['norm']} | {why} | | | |")
            continue
        step = row["train"]
        adapt = f"{1000 * row['adapt']['median']:.2f}" if "adapt" in row else ""
        lines.append(
            f"| {name} | {row['norm']} | {images / step['median']:.0f} "
            f"| {images / step['minimum']:.0f} | {1000 * step['median']:.2f} | {adapt} |"
            + (f" {firsts.get(name, 0.0):.1f} |" if firsts else "")
        )
    learning = ("batch", "task", "joint")
    ours = fastest(rows, "ours anil", "train", "median", learning)
    lines += ["", "Ratios of medians (of minima):", ""]
    for peer in ("torch", "jax"):
        other = fastest(rows, peer, "train", "median", learning)
        if other:
            lines.append(f"- best of ours over {other}: {ratio(rows, other, ours, 'train')}")
    if not pair:
        return "\n".join(lines)
    floor = ratio(rows, "ours anil-batch", "ours floor", "train")
    lines.append(f"- ANIL's step over plain training: {floor}")
    for text, what in (
        ("MAML's step over ANIL's", "train"),
        ("MAML's adapting and predicting over ANIL's", "adapt"),
        ("the same with one query", "learn"),
    ):
        lines.append(f"- {text}: {ratio(pair, 'ours maml-task', 'ours anil-task', what)}")
    return "\n".join(lines)
