"""Latent statistics of DINOv2-B with registers over the ImageNet training images, 512 pixels.

Middle crops; 448 pixels go into the encoder, and features are 32x32x768. A quarter of the usual
images at a time, as each has four times as many tokens. Not run here yet.

Set `data.path` to a folder with `train/<class>/*`. `reference` compares with the statistics of
the RAE release (`nyu-visionx/RAE-collections`), which are not exact: docs/training.md.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.statistics()
    config.autoencoder.encoder.path = "facebook/dinov2-with-registers-base"
    config.autoencoder.encoder.input_size = 448
    config.data.image_size = 512
    config.data.crop = "center"
    config.batch_size = 64
    return config
