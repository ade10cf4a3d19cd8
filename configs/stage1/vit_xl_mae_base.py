"""Stage 1: ViT-XL decoder on MAE-B, ImageNet 256 (RAE, arXiv:2510.11690).

Images of 256 pixels go into the encoder, whose patches are 16 wide; features are 16x16x768. Paper:
Table 1a, rFID 0.16, the lowest of the three kinds of encoders.

Trained as `vit_xl_dinov2_base.py` says, with the same files. Not run here yet.

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
