"""Several devices: each takes its share of the tasks, and the report is of all of them."""

import json
import subprocess
import sys

import numpy as np

PROGRAM = """
import json
import keras
import numpy as np
import tensorflow as tf
from anil_tf import ANIL, EpisodeAccuracy, EpisodeSampler
from anil_tf.datasets.images import ClassImages

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
images = np.random.default_rng(0).integers(0, 256, (48, 6, 6, 1)).astype(np.uint8)
sampler = EpisodeSampler(
    ClassImages.from_arrays(images, np.repeat(np.arange(8), 6)), ways=3, shots=1, queries=2
)

def losses_and_weights(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        backbone = keras.Sequential([
            keras.Input((6, 6, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(4, kernel_regularizer="l2"),
        ])
        model = ANIL(backbone, ways=3, inner_steps=2, inner_lr=0.3)
        model.compile(keras.optimizers.SGD(0.1), metrics=[EpisodeAccuracy()])
    history = model.fit(sampler.dataset(1, tasks=4), epochs=3, shuffle=False, verbose=0).history
    return history["loss"], [weight.tolist() for weight in model.get_weights()]

results = [
    losses_and_weights(tf.distribute.get_strategy()),
    losses_and_weights(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])),
]
print(json.dumps(results))
"""


def test_two_mirrored_devices_train_as_one():
    process = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (losses, weights), (mirrored_losses, mirrored_weights) = json.loads(
        process.stdout.splitlines()[-1]
    )
    assert len(set(losses)) == 3  # it trains
    np.testing.assert_allclose(mirrored_losses, losses, rtol=1e-5)
    for one, two in zip(weights, mirrored_weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)
