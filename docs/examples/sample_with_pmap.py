"""Images of a stage-2 run by `jax.pmap`, each device its part of the batch.

python docs/examples/sample_with_pmap.py runs/stage2 samples.npz
"""

import sys

import jax
import numpy as np

from rae_jax.configuration.schema import SamplingConfig
from rae_jax.sampling.labels import class_labels
from rae_jax.sampling.restore import noise_key, restore
from rae_jax.sampling.save import save_npz

SEED, COUNT = 0, 64
checkpoint, output = sys.argv[1:]

models = restore(SamplingConfig(checkpoint=checkpoint))
index = np.arange(COUNT, dtype=np.int32)
labels = class_labels("equal", COUNT, models.num_classes, SEED)

# Pure: (weights, frozen, key, index, labels) -> uint8 images. Image n depends on key and n alone.
generate = jax.pmap(models.generator, in_axes=(None, None, None, 0, 0))
devices = jax.local_device_count()
images = generate(
    models.weights,
    models.frozen,
    noise_key(SEED),
    index.reshape(devices, -1),
    labels.reshape(devices, -1),
)
save_npz(output, np.asarray(images), labels)
