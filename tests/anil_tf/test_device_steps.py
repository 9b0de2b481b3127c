"""Episodes drawn within the steps of `fit`: the same training, in one computation.

There may be no GPU here: XLA compiles the same computation for the CPU.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from anil_tf import ANIL, BOIL, MAML, EpisodeAccuracy, EpisodeSampler, backbones
from anil_tf.datasets.images import ClassImages
from anil_tf.episodes import ClassSampler, SinusoidSampler

CHANGES = {"rotations": True, "distortion": 0.1, "flips": True, "recoloring": 0.2}


@pytest.fixture(scope="module")
def classes() -> ClassImages:
    rng = np.random.default_rng(0)
    counts = [6, 9, 6, 7, 6, 8]
    images = rng.integers(0, 256, (sum(counts), 8, 8, 3)).astype(np.uint8)
    return ClassImages.from_arrays(images, np.repeat(np.arange(6), counts))


@pytest.fixture(scope="module")
def sampler(classes) -> EpisodeSampler:
    return EpisodeSampler(classes, ways=3, shots=1, queries=2, seed=4)


def make_model(kind=ANIL, steps=1, jit_compile=True, **options) -> ANIL:
    keras.utils.set_random_seed(1)
    backbone = backbones.conv4_strided((8, 8, 3), filters=4, blocks=1)
    model = kind(backbone, ways=3, inner_steps=2 if kind is ANIL else 1, inner_lr=0.3)
    model.compile(
        keras.optimizers.SGD(0.1), metrics=[EpisodeAccuracy()],
        steps_per_execution=steps, jit_compile=jit_compile, **options,
    )  # fmt: skip
    return model


class Batches(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((batch, float(logs["loss"])))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (EpisodeSampler, {}),
        (EpisodeSampler, {**CHANGES, "shots": (1, 3)}),
        (ClassSampler, {"rotations": True}),
    ],
)
def test_a_compiled_step_draws_the_episodes_of_the_host_bit_for_bit(classes, kind, changes):
    sampler = kind(classes, **{"ways": 4, "shots": 1, "queries": 2, "seed": 3, **changes})
    indices = tf.constant([0, 17, 2**40], tf.int64)
    compiled = tf.function(sampler.draw_batch, jit_compile=True)(indices)
    for name, drawn in compiled.items():
        alone = [sampler.draw(index)[name] for index in indices]
        np.testing.assert_array_equal(drawn, np.stack(alone), name)


def train(kind, sampler, where) -> tuple[ANIL, dict[str, list[float]], list[tuple[int, float]]]:
    """Two epochs of 7 steps: one at a time on the host, or 3 in a computation by XLA."""
    device = where == "device"
    model, batches = make_model(kind, 3 if device else 1, jit_compile=device), Batches()
    episodes = sampler.dataset(7, tasks=2, draw_on=where)
    history = model.fit(episodes, epochs=2, verbose=0, callbacks=[batches]).history
    return model, history, batches.seen


def assert_same_training(sampler, kind, device, history, seen):
    host, expected, each = train(kind, sampler, "host")
    for name in expected:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-4, err_msg=name)
    for ours, theirs in zip(device.get_weights(), host.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert device.optimizer.iterations == 14
    # Two epochs of 3, 3 and the last step; Keras numbers an execution by the last it could have.
    assert [batch for batch, _ in seen] == 2 * [2, 5, 8]
    losses = [loss for _, loss in each]
    chosen = [losses[step] for step in (2, 5, 6, 9, 12, 13)]
    np.testing.assert_allclose([loss for _, loss in seen], chosen, rtol=1e-4)


@pytest.mark.parametrize("kind", [MAML, BOIL])
def test_several_steps_in_one_computation_are_as_many_single_steps(sampler, kind):
    assert_same_training(sampler, kind, *train(kind, sampler, "device"))


def test_the_steps_of_anil_are_one_trace_and_never_return_to_the_host(sampler):
    traces = []

    class Counting(ANIL):
        def train_step(self, data):
            traces.append(data)
            return super().train_step(data)

    model, *seen = train(Counting, sampler, "device")
    assert len(traces) == 1
    assert_same_training(sampler, Counting, model, *seen)
    traces.clear()
    model.fit(sampler.dataset(5, 2, start=40, draw_on="device"), verbose=0)
    assert not traces
    several_steps = model._device_steps.several_steps
    arguments = tf.constant(0, tf.int64), tf.constant(3, tf.int64)
    compiled = several_steps.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    assert re.search(r"= .* while\(", compiled)
    for transfer in ("infeed", "outfeed", "send(", "recv(", "host", "callback"):
        assert transfer not in compiled, transfer


def test_the_same_model_takes_other_data_before_and_after(sampler):
    plain, drawing = make_model(jit_compile=False), make_model(steps=2, jit_compile=False)
    batch = next(iter(sampler.dataset(1, 2, start=8)))
    for model, where in ((plain, "host"), (drawing, "device")):
        model.train_on_batch(*batch)
        model.fit(sampler.dataset(4, 2, draw_on=where), verbose=0)
        model.train_on_batch(*batch)
        model.fit(sampler.dataset(2, 2, draw_on=where).map(lambda x, y: (x, y)), verbose=0)
    for ours, theirs in zip(drawing.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {}], ids=["eager", "graph"])
def test_episodes_are_drawn_in_steps_without_xla_too(sampler, options):
    weights = []
    for where in ("host", "device"):
        model = make_model(steps=2, jit_compile=False, **options)
        model.fit(sampler.dataset(3, 2, draw_on=where), verbose=0)
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_float16_scales_the_loss_within_the_computation(sampler):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model(steps=3)
    finally:
        keras.config.set_dtype_policy("float32")
    history = model.fit(sampler.dataset(6, 2, draw_on="device"), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert model.optimizer.inner_optimizer.iterations == 6


def test_without_a_gpu_the_host_draws_one_step_at_a_time(sampler):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    model = make_model(steps="auto")
    assert model.steps_per_execution == 1
    assert model.get_compile_config()["steps_per_execution"] == "auto"
    assert model.plan_on_device(sampler.dataset(1, 2).plan) is None


def test_images_that_do_not_fit_are_drawn_on_the_host(sampler, monkeypatch):
    monkeypatch.setattr(EpisodeSampler, "on_device", lambda self: None)
    gpu = [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]
    model = make_model()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpu)
    assert model.plan_on_device(sampler.dataset(1, 2).plan) is None
    with pytest.raises(ValueError, match="draw_on='device' needs .* Use draw_on='host'"):
        model.fit(sampler.dataset(1, 2, draw_on="device"))


def test_what_cannot_be_drawn_on_the_device_is_refused(classes, sampler):
    with pytest.raises(ValueError, match="draw_on must be one of .* Received: 'gpu'"):
        sampler.dataset(1, 2, draw_on="gpu")
    waves = SinusoidSampler(2, 2).dataset(1, 2, draw_on="device")
    model = ANIL(backbones.mlp(), ways=1, loss="mse")
    model.compile("adam")
    with pytest.raises(ValueError, match="needs a sampler of images"):
        model.fit(waves)
    many = EpisodeSampler(classes, ways=5, shots=1, queries=1)
    with pytest.raises(
        ValueError, match="Labels are 0 to 2 with ways=3. Received: a sampler with 5"
    ):
        make_model().fit(many.dataset(1, 2, draw_on="device"))
