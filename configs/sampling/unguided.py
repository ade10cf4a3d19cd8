"""50,000 unguided images, 50 of each of 1,000 classes, for the ADM evaluation suite.

Euler over 50 points of the shifted grid, as published. The images are those of
`configs/stage2/dit_dh_xl_mae_base.py` unless `checkpoint` names another run.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.sampling()
    config.checkpoint = "runs/dit_dh_xl_mae_base"
    config.num_images = 50_000
    config.labels = "equal"
    config.sampler.method = "euler"
    config.sampler.num_steps = 50
    config.save_png = False
    return config
