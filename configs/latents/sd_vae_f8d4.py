"""Cached latents of SD-VAE over the ImageNet training images, 256 pixels, for stage 2.

Mean and deviation of every image and its mirror image: 42 GB in bfloat16. The images are those of
`configs/stage2/dit_xl_sd_vae_f8d4.py`. Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.latent_cache()
    config.autoencoder.pretrained = "stabilityai/sd-vae-ft-mse"
    config.data.image_size = 256
    config.data.crop = "center"
    config.data.horizontal_flip = True
    return config
