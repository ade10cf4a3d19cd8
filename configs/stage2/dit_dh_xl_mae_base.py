"""Stage 2: DiTDH-XL on MAE-B latents (16x16x768), ImageNet 256 (RAE, arXiv:2510.11690, section 4).

The published recipe, which the paper runs on DINOv2-B latents: middle crops, mirrored at random,
linear path, velocity, logit-normal times with the shift that follows from the latents (6.93),
AdamW 2e-4 held for 40 epochs and then falling linearly to 2e-5 at epoch 800, 1400 epochs, batch
1024, gradients clipped at 1, EMA 0.9995.

Set `data.path` to a folder with `train/<class>/*`; decoder and statistics are those of
`configs/stage1/vit_xl_mae_base.py` and `configs/statistics/mae_base.py`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage2()
    config.autoencoder.encoder.path = "facebook/vit-mae-base"
    config.autoencoder.encoder.input_size = 256
    config.autoencoder.decoder = defaults.decoder("vit_xl")
    config.autoencoder.checkpoint = "runs/vit_xl_mae_base"
    config.autoencoder.statistics = "runs/mae_base/latent_statistics.npz"
    config.data.image_size = 256
    config.data.crop = "center"
    config.data.horizontal_flip = True
    config.denoiser = defaults.denoiser("dit_dh_xl")
    config.global_batch_size = 1024
    config.duration = "1400 epochs"
    return config
