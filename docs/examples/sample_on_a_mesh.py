"""Images of a stage-2 run by `jax.jit` with shardings on a mesh of all devices.

python docs/examples/sample_on_a_mesh.py runs/stage2 samples.npz
"""

import sys

import jax
import numpy as np

from rae_jax.configuration.schema import SamplingConfig
from rae_jax.sampling.labels import class_labels
from rae_jax.sampling.restore import noise_key, restore
from rae_jax.sampling.save import save_npz
from rae_jax.sharding.mesh import batch_sharding, make_mesh
from rae_jax.sharding.processes import place
from rae_jax.sharding.rules import tree_shardings

SEED, COUNT, BATCH_SIZE = 0, 64, 32
checkpoint, output = sys.argv[1:]

models = restore(SamplingConfig(checkpoint=checkpoint))
labels = class_labels("equal", COUNT, models.num_classes, SEED)
mesh = make_mesh(data=-1, fsdp=1)  # fsdp=2 would cut each large parameter in two.
rows = batch_sharding(mesh)
arguments = models.weights, models.frozen
arguments = place(arguments, tree_shardings(arguments, mesh))
generate = jax.jit(models.generator, out_shardings=rows)


def batches():
    """Images of the samples in order, so many at a time."""
    for start in range(0, COUNT, BATCH_SIZE):
        index = np.arange(start, start + BATCH_SIZE, dtype=np.int32)
        batch = place((index, labels[index]), rows)
        yield np.asarray(generate(*arguments, noise_key(SEED), *batch))


# The models keep their activations cut over this mesh.
with jax.set_mesh(mesh):
    save_npz(output, batches(), labels)
