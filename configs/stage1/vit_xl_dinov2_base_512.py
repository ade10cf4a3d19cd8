"""Stage 1: ViT-XL decoder on DINOv2-B with registers, ImageNet 512 (RAE, arXiv:2510.11690).

Images of 448 pixels go into the encoder and 32x32 features come out, of which the decoder makes
images of 512 pixels. The autoencoder of the paper's results for 512 pixels is one of this kind. The
shorter side becomes 768 pixels before the random crop: 384 times two, as all else is.

A step works on four times as many tokens as for 256 pixels. If memory is short, set `remat="full"`
or `gradient_accumulation=4`, which leave the gradients as they are.

Trained as `vit_xl_dinov2_base.py` says, with the same files. Not run here yet.

Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage1()
    config.autoencoder.encoder.path = "facebook/dinov2-with-registers-base"
    config.autoencoder.encoder.input_size = 448
    config.autoencoder.decoder = defaults.decoder("vit_xl")
    config.autoencoder.noise_tau = 0.8
    config.data.image_size = 512
    config.data.crop = "random"
    config.data.resize_size = 768
    config.global_batch_size = 512
    config.duration = "16 epochs"
    return config
