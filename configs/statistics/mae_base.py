"""Latent statistics of MAE-B over the ImageNet training images, 256 pixels, middle crops.

Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.statistics()
    config.autoencoder.encoder.path = "facebook/vit-mae-base"
    config.autoencoder.encoder.input_size = 256
    config.data.image_size = 256
    config.data.crop = "center"
    return config
