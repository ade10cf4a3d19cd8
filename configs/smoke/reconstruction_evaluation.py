"""Scores of the autoencoder of `configs/smoke/stage1.py` on test digits: seconds. No rFID."""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.evaluate_reconstruction()
    config.originals.data = defaults.digits_data()
    config.originals.data.split = "test"
    config.checkpoint = "runs/stage1"
    config.extractor = defaults.digits_extractor()
    return config
