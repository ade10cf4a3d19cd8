"""Latent statistics of DINOv2-S with registers over the ImageNet training images, 256 pixels.

Middle crops; 224 pixels go into the encoder, and features are 16x16x384. Not run here yet.

Set `data.path` to a folder with `train/<class>/*`. `reference` compares with the statistics of
the RAE release (`nyu-visionx/RAE-collections`), which are not exact: docs/training.md.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.statistics()
    config.autoencoder.encoder.path = "facebook/dinov2-with-registers-small"
    config.autoencoder.encoder.input_size = 224
    config.data.image_size = 256
    config.data.crop = "center"
    return config
