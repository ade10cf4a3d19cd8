"""Latent statistics of DINOv2-B with registers over the ImageNet training images, 256 pixels.

Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.statistics()
    config.autoencoder.encoder.path = "facebook/dinov2-with-registers-base"
    config.autoencoder.encoder.input_size = 224
    config.data.image_size = 256
    config.data.crop = "center"
    return config
