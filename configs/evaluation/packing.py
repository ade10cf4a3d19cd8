"""A folder of images, all of one size, as an npz for the ADM suite; set `images.path`."""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.packing()
    config.images.path = "runs/samples/png"
    return config
