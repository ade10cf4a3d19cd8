"""Stage 1: ViT-XL decoder on DINOv2-B with registers, ImageNet 256 (RAE, arXiv:2510.11690).

Images of 224 pixels go into the encoder and 16x16 features come out, of which the decoder makes
images of 256 pixels. The L1 part of the published recipe alone, as in `vit_xl_mae_base.py`.

Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage1()
    config.autoencoder.encoder.path = "facebook/dinov2-with-registers-base"
    config.autoencoder.encoder.input_size = 224
    config.autoencoder.decoder = defaults.decoder("vit_xl")
    config.autoencoder.noise_tau = 0.8
    config.data.image_size = 256
    config.data.crop = "random"
    config.data.resize_size = 384
    config.global_batch_size = 512
    config.duration = "16 epochs"
    return config
