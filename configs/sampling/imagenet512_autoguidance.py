"""50,000 images of 512 pixels, guided by a DiTDH-S, for the ADM evaluation suite.

The published settings (bytetriper/RAE): the DiTDH-XL after 400 epochs, autoguidance of scale 1.5 at
all times by a DiTDH-S after 20 epochs, Euler over 50 points of the shifted grid. gFID 1.13 in the
paper. `checkpoint` and `guidance.checkpoint` are the work folders of the two converted models.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.sampling()
    config.checkpoint = "runs/dit_dh_xl_dinov2_base_512"
    config.num_images = 50_000
    config.labels = "equal"
    config.batch_size = 64
    config.sampler.method = "euler"
    config.sampler.num_steps = 50
    config.guidance.method = "autoguidance"
    config.guidance.scale = 1.5
    config.guidance.interval = (0.0, 1.0)
    config.guidance.checkpoint = "runs/dit_dh_s_dinov2_base_512"
    config.save_png = False
    return config
