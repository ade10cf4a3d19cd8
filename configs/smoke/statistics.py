"""Latent statistics of the built-in training digits: seconds."""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.statistics()
    config.autoencoder = defaults.digits_autoencoder()
    config.data = defaults.digits_data()
    return config
