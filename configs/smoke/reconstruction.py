"""Images through the autoencoder of `configs/smoke/stage1.py` and back; set `input`."""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.reconstruction()
    config.checkpoint = "runs/stage1"
    return config
