"""Stage 1: ViT-XL decoder on MAE-B features, ImageNet 256 (RAE, arXiv:2510.11690, section 3).

The L1 part of the published recipe alone: its LPIPS and GAN terms are not in yet, without which
reconstructions are blurred and no published score can be met. The rest is as published: shorter
side to 384 pixels, random crops of 256, noise_tau 0.8, AdamW 2e-4 with one warm-up epoch and
cosine decay to 2e-5 over 16 epochs, batch 512, EMA 0.9978.

Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage1()
    config.autoencoder.encoder.path = "facebook/vit-mae-base"
    config.autoencoder.encoder.input_size = 256
    config.autoencoder.decoder = defaults.decoder("vit_xl")
    config.autoencoder.noise_tau = 0.8
    config.data.image_size = 256
    config.data.crop = "random"
    config.data.resize_size = 384
    config.global_batch_size = 512
    config.duration = "16 epochs"
    return config
