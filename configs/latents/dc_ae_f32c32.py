"""Cached latents of DC-AE over the ImageNet training images, 512 pixels, for stage 2.

Every image and its mirror image: 42 GB in bfloat16. The images are those of
`configs/stage2/dit_xl_dc_ae_f32c32.py`. Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.latent_cache()
    config.autoencoder.pretrained = "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers"
    config.data.image_size = 512
    config.data.crop = "center"
    config.data.horizontal_flip = True
    return config
