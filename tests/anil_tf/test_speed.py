"""What makes training fast, in counts: kernels of a step, growth of the inner loop, traces."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anil_tf import ANIL, EpisodeAccuracy, EpisodeSampler, backbones
from anil_tf.datasets.images import ClassImages
from anil_tf.inner_loop import adapt_linear
from anil_tf.losses import cross_entropy
from anil_tf.support.keras_private import build_metrics

BLOCKS = 2
HOST_OPERATIONS = {"PyFunc", "EagerPyFunc", "PyFuncStateless", "NumpyFunction"}


@pytest.fixture(scope="module")
def sampler() -> EpisodeSampler:
    images = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1)).astype(np.uint8)
    classes = ClassImages.from_arrays(images, np.repeat(np.arange(8), 6))
    return EpisodeSampler(classes, ways=3, shots=1, queries=2)


def make_model(filters=4, **options) -> ANIL:
    backbone = backbones.conv4((8, 8, 1), filters=filters, blocks=BLOCKS)
    model = ANIL(backbone, ways=3, inner_steps=3, **options)
    model.compile(keras.optimizers.Adam(0.01), metrics=[EpisodeAccuracy()])
    return model


def operations(function, *arguments) -> list[tf.Operation]:
    """All operations of the function's graph, those of the functions that it calls included."""
    graph = tf.function(function).get_concrete_function(*arguments).graph
    inner = [graph._get_function(name).graph for name in graph._functions]
    return [operation for each in (graph, *inner) for operation in each.get_operations()]


def step_operations(model: ANIL, sampler: EpisodeSampler) -> list[tf.Operation]:
    batch = next(iter(sampler.dataset(1, tasks=2)))
    model.optimizer.build(model.trainable_variables)  # a step cannot make variables when traced
    build_metrics(model, batch)
    return operations(model.train_step, batch)


def kinds(all_operations) -> dict[str, int]:
    names = [operation.type for operation in all_operations]
    return {name: names.count(name) for name in set(names)}


@pytest.mark.parametrize(("norm", "passes"), [("batch", 1), ("task", 2 * 2)])
def test_a_training_step_runs_each_kernel_once_a_block_and_pass(sampler, norm, passes):
    counts = kinds(step_operations(make_model(norm=norm), sampler))
    for kernel in ("Conv2D", "FusedBatchNormV3", "FusedBatchNormGradV3", "MaxPool", "MaxPoolGrad"):
        assert counts[kernel] == passes * BLOCKS, kernel
    assert counts["Conv2DBackpropFilter"] == passes * BLOCKS
    assert not HOST_OPERATIONS & set(counts)


def test_relu_and_its_gradient_run_on_pooled_maps(sampler):
    sides = sorted(
        operation.outputs[0].shape[1]
        for operation in step_operations(make_model(), sampler)
        if operation.type in ("Relu", "ReluGrad")
    )
    assert sides == [2, 2, 4, 4]


def inner_loop_operations(size: int, steps: int) -> list[tf.Operation]:
    rng = np.random.default_rng(0)
    tensors = [
        tf.constant(rng.normal(size=shape), tf.float32)
        for shape in ((2, 6, size), (2, 4, size), (size, 3), (3,))
    ]
    labels = tf.constant(rng.integers(0, 3, (2, 6)), tf.int32)

    def step(support, query, kernel, bias):
        with tf.GradientTape() as tape:
            watched = [support, query, kernel, bias]
            tape.watch(watched)
            adapted = adapt_linear(support, labels, kernel, bias, cross_entropy, 0.1, steps)
            loss = tf.reduce_sum(adapted.logits(query))
        return tape.gradient(loss, watched)

    return operations(step, *tensors)


def test_the_inner_loop_has_as_many_operations_whatever_the_feature_size():
    assert kinds(inner_loop_operations(7, 5)) == kinds(inner_loop_operations(700, 5))


def test_an_inner_step_touches_no_tensor_of_the_feature_size():
    size = 701

    def wide(steps):
        return sum(
            size in tensor.shape.as_list()
            for operation in inner_loop_operations(size, steps)
            for tensor in (*operation.inputs, *operation.outputs)
            if tensor.shape.rank is not None
        )

    assert wide(2) > 0
    assert wide(10) == wide(2)


def test_varying_episodes_are_traced_once(sampler):
    traces = []

    class Counting(ANIL):
        def train_step(self, data):
            traces.append(data)
            return super().train_step(data)

    model = Counting(backbones.mlp((8, 8, 1), units=4), ways=3)
    model.compile("adam")
    model.fit(sampler.dataset(3, tasks=2), shuffle=False, verbose=0)
    for start in (10, 50):
        model.fit(sampler.dataset(5, tasks=2, start=start), shuffle=False, verbose=0)
    assert len(traces) == 1


def usual_conv4(shape: tuple[int, int, int], filters: int) -> keras.Model:
    """As it is usually written: every operation a layer of Keras, ReLU before the pooling."""
    image = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 255)(image)
    for _ in range(BLOCKS):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.95, epsilon=1e-3)(x)
        x = keras.layers.MaxPooling2D()(keras.layers.ReLU()(x))
    return keras.Model(image, keras.layers.Flatten()(x))


# Of two channels the first block normalises its maps, of one it folds the norm into the kernel.
@pytest.mark.parametrize(("channels", "filters"), [(2, 8), (1, 32)])
@pytest.mark.parametrize("training", [True, False])
def test_conv4_is_the_network_as_it_is_usually_written(channels, filters, training):
    shape = (12, 12, channels)
    fast = backbones.conv4(shape, filters=filters, blocks=BLOCKS)
    usual = usual_conv4(shape, filters)
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.2, 1, value.shape) * 0.3 for value in fast.get_weights()]
    images = tf.constant(rng.integers(0, 256, (10, *shape)), tf.uint8)
    direction = tf.constant(rng.normal(size=(10, fast.output_shape[-1])), tf.float32)
    results = []
    for network in (fast, usual):
        network.set_weights(weights)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(direction * network(images, training=training))
        gradients = tape.gradient(loss, network.trainable_weights)
        results.append([loss, *gradients, *map(tf.constant, network.get_weights())])
    for ours, expected in zip(*results, strict=True):
        scale = float(tf.reduce_max(tf.abs(expected)))
        np.testing.assert_allclose(ours, expected, atol=1e-5 * scale)


def test_the_largest_map_of_grey_images_is_never_normalised(sampler):
    counts = kinds(step_operations(make_model(filters=32), sampler))
    for kernel in ("FusedBatchNormV3", "FusedBatchNormGradV3"):
        assert counts[kernel] == BLOCKS - 1, kernel


@pytest.mark.parametrize("device", ["CPU", "GPU"])
def test_the_whole_step_is_compiled_where_there_is_a_gpu(monkeypatch, device):
    devices = [tf.config.PhysicalDevice("/physical_device:0", device)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: devices)
    assert make_model().jit_compile is (device == "GPU")
