"""Stage 2: LightningDiT-XL on DINOv2-B latents (16x16x768), ImageNet 256 (RAE, arXiv:2510.11690).

One trunk of width 1152 in place of DiTDH's backbone and head, to compare with: the paper finds that
a denoiser should be at least as wide as its latents have channels, which this one is, and that the
wide head of DiTDH is worth more than depth. Trained as `dit_dh_xl_mae_base.py` says.

Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage2()
    config.autoencoder.pretrained = "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08"
    config.data.image_size = 256
    config.data.crop = "center"
    config.data.horizontal_flip = True
    config.denoiser = defaults.denoiser("lightning_dit_xl")
    config.global_batch_size = 1024
    config.duration = "1400 epochs"
    return config
