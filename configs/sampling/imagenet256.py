"""50,000 unguided images of 256 pixels, 50 of each of 1,000 classes, for the ADM evaluation suite.

The published DiTDH-XL on DINOv2-B with the published settings (bytetriper/RAE): Euler over 50
points of the shifted grid, 49 evaluations of the network. gFID 1.51 in the paper. `checkpoint` is
the work folder of the converted model; name that of a run to sample a model of your own.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.sampling()
    config.checkpoint = "runs/dit_dh_xl_dinov2_base"
    config.num_images = 50_000
    config.labels = "equal"
    config.sampler.method = "euler"
    config.sampler.num_steps = 50
    config.save_png = False
    return config
