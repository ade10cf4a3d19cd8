"""Stage 1: ViT-B decoder on DINOv2-B with registers, ImageNet 256 (RAE, arXiv:2510.11690).

The lightest published decoder. Paper: Table 1b, rFID 0.58, ViT-XL 0.49.

Trained as `vit_xl_dinov2_base.py` says, with the same files. Not run here yet.

Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage1()
    config.autoencoder.encoder.path = "facebook/dinov2-with-registers-base"
    config.autoencoder.encoder.input_size = 224
    config.autoencoder.decoder = defaults.decoder("vit_b")
    config.autoencoder.noise_tau = 0.8
    config.data.image_size = 256
    config.data.crop = "random"
    config.data.resize_size = 384
    config.global_batch_size = 512
    config.duration = "16 epochs"
    return config
