"""`anil adapt-many`."""

import os
import time
from pathlib import Path

import click

from anil_tf.figures import write_json

_PATH = click.Path(path_type=Path, exists=True)


@click.command("adapt-many")
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--tasks",
    required=True,
    type=_PATH,
    help="A Parquet or TFRecord file, or a folder of them, with a task a row or example: columns "
    "task, labels, and features or images.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the heads; an unfinished run in it is continued.",
)
@click.option("--steps", type=click.IntRange(min=0), help="Steps; the bundle's own by default.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Learning rate; the bundle's own by default.",
)
@click.option(
    "--runner",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or the Ray cluster of RAY_ADDRESS.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Local processes; one a core by default."
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the figures to this file.",
)
def adapt_many(
    bundle: Path,
    tasks: Path,
    output: Path,
    steps: int | None,
    learning_rate: float | None,
    runner: str,
    workers: int | None,
    json_file: Path | None,
) -> None:
    """Fit a head for BUNDLE's backbone to each of many tasks."""
    try:
        from anil_tf.export import bulk, bulk_runners
    except ModuleNotFoundError as error:
        raise ImportError("adapt-many needs: pip install pyarrow") from error
    from tqdm import tqdm

    start = time.perf_counter()
    job, chunks = bulk.prepare(bundle, tasks, output, learning_rate, steps)
    before = {chunk: bulk.find_done(job, chunk) for chunk in chunks}
    finished = [done for done in before.values() if done]
    waiting = [chunk for chunk, done in before.items() if not done]
    if runner == "ray":
        running = bulk_runners.run_ray(job, waiting)
    else:
        running = bulk_runners.run_local(job, waiting, workers or os.cpu_count() or 1)
    now = []
    total = sum(chunk.tasks for chunk in waiting)
    with tqdm(total=total, desc="Heads", unit=" tasks", disable=None) as progress:
        for done in running:
            now.append(done)
            progress.update(done.heads + done.errors)
    bulk.clear_unfinished(output)
    seconds = time.perf_counter() - start

    heads = sum(done.heads for done in now)
    errors = sum(done.errors for done in now + finished)
    earlier = sum(done.heads for done in finished)
    click.echo(
        f"{heads + earlier} heads" + f", {earlier} of them from before" * bool(earlier) + ". "
        f"{seconds:.1f} s, {heads / seconds:.0f} heads a second. Wrote {output}"
    )
    if errors:
        click.echo(f"{errors} tasks could not be learned: {output / bulk.ERRORS} says why")
    rose = sum(done.rose for done in now + finished)
    incomplete = sum(done.incomplete for done in now + finished)
    if rose:
        click.echo(f"Warning: the support loss of {rose} heads rose", err=True)
    if incomplete:
        click.echo(
            f"Warning: {incomplete} heads have a class without a row: give a column `ways`",
            err=True,
        )
    write_json(
        json_file,
        {
            "loss_rose": rose,
            "incomplete": incomplete,
            "heads": heads + earlier,
            "heads_from_before": earlier,
            "errors": errors,
            "seconds": seconds,
            "runner": runner,
        },
    )
    click.echo(
        "Next: anil_tf.export.bulk.read_heads reads them, one task after the other", err=True
    )
