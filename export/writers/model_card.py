"""The README of a bundle: a model card (Mitchell et al. 2019, https://arxiv.org/abs/1810.03993)."""

from anil_tf.export import layout
from anil_tf.export.manifest import Manifest
from anil_tf.export.signatures import NO_CLASS_BIAS, NO_CLASS_LABEL

_STATIC = f"""
`{layout.LITERT_STATIC}` has fixed shapes, with room for as many rows and classes as its inputs
show. Fill up rows with label {NO_CLASS_LABEL}, and classes with kernel 0 and bias
{NO_CLASS_BIAS:g}, as its `initial_head` does.
"""

_TFLM = """
`tflm/` is for TensorFlow Lite Micro on microcontrollers; each file is there as a C array too. They
have space for as many rows and classes as their inputs show. Unused rows have label {label} and
finite numbers, such as zeros. `features` takes int8: each byte minus 128.

{sizes}
"""

_TEMPLATE = """\
# {name}

A few-shot image classifier. From a handful of labelled images it learns new classes in
milliseconds, where it runs: a frozen backbone turns an image into {feature_size} features, and a
linear head is fitted to those features by a few steps of gradient descent (ANIL, Raghu et al.
2020, <https://arxiv.org/abs/1909.09157>). Made with anil-tf {version}.

## Use

    anil adapt THIS_FOLDER --support DIR --output head.npz     # DIR/class-name/*.png
    anil predict THIS_FOLDER --head head.npz IMAGE...
{script}
`--from head.npz` adds the classes of DIR to a head and `--remove NAME` takes one away, without the
images that it was learned from: a head keeps their features, which tell something of the images.

| | |
|---|---|
| Input | {image_dtype} `[batch, {image_shape}]`; pixel scaling is part of the model |
| Classes | {classes} |
| Adaptation | {inner_steps} steps at learning rate {inner_lr:.4g} |
| Formats | {formats} |

`manifest.json` has every setting and the sha256 of every file. The functions are the same in each
format: `features`, `initial_head`, `adapt`, `predict` and `similarity`; a SavedModel also has
`adapt_and_predict`, which is learning and prediction in one call. A label outside `0..N-1` marks a
padding row, which is left out{padding}.
{static}{tflm}
## Data

{data}

## Accuracy

{accuracy}

Batch normalisation uses the moving averages of training (inductive): an image's features do not
depend on the images beside it.

## Agreement with the float64 reference

Differences are relative to the largest value of the reference; those of 8-bit features are lengths,
relative to the length of the reference's feature vector. Where adaptation amplifies rounding, the
bound is what rounding of its inputs decides.

{parity}

## Licence

To be stated by whoever publishes this bundle; the licence of the training data applies too.
"""

_SCRIPT = """
Without anil-tf, by a script that lies beside this file (`pip install numpy onnxruntime pillow`):

    python adapt.py learn DIR --output head.npz
    python adapt.py predict --head head.npz IMAGE...
"""


def write_model_card(manifest: Manifest) -> str:
    """The text of a bundle's README.md."""
    shared = manifest.head_init == "shared"
    return _TEMPLATE.format(
        name=manifest.name,
        version=manifest.versions["anil-tf"],
        feature_size=manifest.feature_size,
        image_dtype=manifest.image_dtype,
        image_shape=", ".join(map(str, manifest.image_shape)),
        classes="any number from 2" if shared else f"2 to {manifest.ways}",
        inner_steps=manifest.inner_steps,
        inner_lr=manifest.inner_lr,
        formats=", ".join(manifest.formats),
        script=_SCRIPT * (layout.ADAPT_SCRIPT in manifest.files),
        static=_STATIC * (layout.LITERT_STATIC in manifest.files),
        tflm=_tflm(manifest),
        padding="; `adapt_and_predict` has as many classes as the largest label says" * shared,
        data="\n".join(f"- {key}: {value}" for key, value in manifest.data.items())
        or "Not stated by whoever exported this model.",
        accuracy=_accuracy(manifest),
        parity=_table(
            ("runtime", "check", "difference", "bound"),
            [
                (p.runtime, c.check, f"{c.difference:.1e}", f"{c.bound:.1e}")
                for p in manifest.parity
                for c in p.checks
            ],
        ),
    )


def _tflm(manifest: Manifest) -> str:
    """The section on microcontrollers, with what each function needs; empty without one."""
    arenas = {p.runtime: p.arena_bytes for p in manifest.parity}.get("tflm", {})
    rows: list[tuple[object, ...]] = [
        (name, f"{manifest.size(layout.TFLM[name]):,}", f"{arena:,}")
        for name, arena in arenas.items()
    ]
    header = ("function", "flash, bytes", "arena, bytes")
    return _TFLM.format(label=NO_CLASS_LABEL, sizes=_table(header, rows)) * bool(rows)


def _accuracy(manifest: Manifest) -> str:
    if not manifest.accuracy:
        return "Not measured. `anil evaluate`, run before the export, adds it."
    keys = ("ways", "shots", "queries", "episodes", "split")
    rows = [
        (
            runtime,
            f"{100 * figures['accuracy']:.2f} ± {100 * figures['ci95']:.2f} %",
            *(figures.get(key, "") for key in keys),
        )
        for runtime, figures in manifest.accuracy.items()
    ]
    return _table(("runtime", "accuracy (95 % interval)", *keys), rows)


def _table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
