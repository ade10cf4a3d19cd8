"""Stage 1: ViT-XL decoder on DINOv2-B with registers, ImageNet 256 (RAE, arXiv:2510.11690).

Images of 224 pixels go into the encoder and 16x16 features come out, of which the decoder makes
images of 256 pixels. Paper: Table 1, rFID 0.49 on the ImageNet validation images; this is the
autoencoder of its main results. Not run here yet, so no score of this config is known.

The published recipe, which the defaults hold: shorter side to 384 pixels, random crops of 256,
noise_tau 0.8; L1, LPIPS with weight 1 and an adversarial loss with weight 0.75 times the adaptive
weight; the discriminator learns from epoch 6 on and the decoder from it from epoch 8 on; AdamW
2e-4 for both, one warm-up epoch and cosine decay to 2e-5 over 16 epochs; batch 512, EMA 0.9978.

Set `data.path` to a folder with `train/<class>/*`, and `lpips.path` and
`gan.discriminator.path` to the published files that they name.
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
