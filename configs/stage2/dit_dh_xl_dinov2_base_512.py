"""Stage 2: DiTDH-XL on the published RAE of DINOv2-B, ImageNet 512 (RAE, arXiv:2510.11690).

Images of 448 pixels go into the encoder, so latents are 32x32x768 and the time shift is 13.86.
The learning rate follows the schedule for 256 pixels, cut at the end.
Trained as `dit_dh_xl_mae_base.py` says. Decoder and latent statistics come with the published
autoencoder. Its decoder is that of diffusers, which places the 32x32 tokens from 0 to 15.5; that of
the RAE collections (`model.pt`) has places of its own, 0 to 31, and gives other images of the same
latents: docs/porting.md.

Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage2()
    config.autoencoder.pretrained = "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08-i512"
    config.data.image_size = 512
    config.data.crop = "center"
    config.data.horizontal_flip = True
    config.denoiser = defaults.denoiser("dit_dh_xl")
    config.global_batch_size = 1024
    config.duration = "400 epochs"
    return config
