"""Cached latents of the published RAE of DINOv2-B over the ImageNet training images, 256 pixels.

Every image and its mirror image: 1.0 TB in bfloat16. The images are those of
`configs/stage2/dit_dh_xl_dinov2_base.py` and its smaller siblings. Set `data.path` to a folder with
`train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.latent_cache()
    config.autoencoder.pretrained = "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08"
    config.data.image_size = 256
    config.data.crop = "center"
    config.data.horizontal_flip = True
    return config
