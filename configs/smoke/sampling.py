"""Digits from the denoiser of `configs/smoke/stage2.py`, 100 of each class, unguided."""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.sampling()
    config.checkpoint = "runs/stage2"
    config.num_images = 1000
    config.batch_size = 250
    config.save_png = False
    return config
