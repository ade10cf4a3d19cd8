"""gFID and the rest of the ADM suite of 50,000 samples of 256 pixels, against ADM's reference.

`reference` is ADM's VIRTUAL_imagenet256_labeled.npz (moments of the training images, and 10,000 of
them), `weights` the published Inception; docs/evaluation.md tells where they are. `samples.path`
is the work folder of tools/sample.py.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.evaluate_generation()
    config.samples.path = "runs/samples"
    config.reference.path = "VIRTUAL_imagenet256_labeled.npz"
    config.extractor.weights = "pt_inception-2015-12-05-6726825d.pth"
    return config
