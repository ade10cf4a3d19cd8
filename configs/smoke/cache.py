"""Latents of the built-in training digits on disk: seconds.

Set `autoencoder.statistics` to the file of latent statistics that stage 2 normalises with. Digits
have no mirror images.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.latent_cache()
    config.autoencoder = defaults.digits_autoencoder()
    config.autoencoder.statistics = "runs/statistics/latent_statistics.npz"
    config.data = defaults.digits_data()
    config.stored_dtype = "float32"
    config.images_per_shard = 512
    return config
