"""Stage 2: LightningDiT-XL/2 on SD-VAE latents (32x32x4), ImageNet 256; the baseline of RAE.

Data, optimiser, schedule and length are those of DiT-XL/2 (arXiv:2212.09748; FID 9.62, and 2.27
with guidance, after 7 million steps) and of SiT-XL/2 (arXiv:2401.08740; 8.3 and 2.06), which trains
by flow matching with uniform times as is done here. The network is LightningDiT's
(arXiv:2501.01423) of the same width, depth and patches. None of these is this config exactly, and
nothing has been trained with it.

Latents are 4,096 numbers, so times are not shifted. They are drawn anew in every step from the
distribution that the encoder gives. Set `data.path` to a folder with `train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage2()
    config.autoencoder.pretrained = "stabilityai/sd-vae-ft-mse"
    config.data.image_size = 256
    config.data.crop = "center"
    config.data.horizontal_flip = True
    config.denoiser = defaults.denoiser("lightning_dit_xl")
    config.denoiser.patch_size = 2
    config.transport.time_distribution = "uniform"
    config.global_batch_size = 256
    config.duration = "1400 epochs"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.beta2 = 0.999
    config.optimizer.clip_norm = 0.0
    config.schedule.kind = "constant"
    config.schedule.warmup = "0 steps"
    config.ema_decay = 0.9999
    return config
