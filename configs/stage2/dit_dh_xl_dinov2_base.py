"""Stage 2: DiTDH-XL on the published RAE of DINOv2-B, ImageNet 256 (RAE, arXiv:2510.11690).

Trained as `dit_dh_xl_mae_base.py` says. Decoder and latent statistics come with the published
autoencoder.

Set `data.path` to a folder with `train/<class>/*`. On TPUs set `dtype` to bfloat16 and `mesh`, on
a v5e-256 to data=16 and fsdp=16: docs/tpu.md tells what that takes.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage2()
    config.autoencoder.pretrained = "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08"
    config.data.image_size = 256
    config.data.crop = "center"
    config.data.horizontal_flip = True
    config.denoiser = defaults.denoiser("dit_dh_xl")
    config.global_batch_size = 1024
    config.duration = "1400 epochs"
    return config
