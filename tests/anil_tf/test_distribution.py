"""Several devices: replicas that share the tasks, and one to which batches are copied."""

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

class Noting(ANIL):
    read_from = []

    def copied_ahead(self, batches):
        batches = super().copied_ahead(batches)
        _, labels = next(iter(batches))
        self.read_from.append(labels.device[-5:])
        return batches

def losses_and_weights(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        backbone = keras.Sequential([
            keras.Input((6, 6, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(4, kernel_regularizer="l2"),
        ])
        model = Noting(backbone, ways=3, inner_steps=2, inner_lr=0.3)
        model.compile(keras.optimizers.SGD(0.1), metrics=[EpisodeAccuracy()])
    history = model.fit(sampler.dataset(1, tasks=4), epochs=3, shuffle=False, verbose=0).history
    return history["loss"], [weight.tolist() for weight in model.get_weights()]

results = [
    losses_and_weights(tf.distribute.get_strategy()),
    losses_and_weights(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])),
]
# The second device in the place of a GPU: batches of the host are copied there ahead of the steps.
devices = tf.config.list_logical_devices
tf.config.list_logical_devices = lambda kind: devices("CPU")[1:] if kind == "GPU" else devices(kind)
results.append(losses_and_weights(tf.distribute.get_strategy()))
assert Noting.read_from == ["CPU:0", "CPU:1"], Noting.read_from
print(json.dumps(results))
"""


def test_two_mirrored_devices_and_batches_copied_ahead_train_as_one_device():
    process = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (losses, weights), *others = json.loads(process.stdout.splitlines()[-1])
    assert len(set(losses)) == 3  # it trains
    for other_losses, other_weights in others:
        np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
        for one, two in zip(weights, other_weights, strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)
