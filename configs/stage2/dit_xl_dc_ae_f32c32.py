"""Stage 2: LightningDiT-XL/1 on DC-AE latents (16x16x32), ImageNet 512 (DC-AE, arXiv:2410.10733).

The paper compares DiT-XL with patches of 1 on DC-AE-f32c32 and of 2 on SD-VAE at 512 pixels: 256
tokens instead of 1,024. Its row is DiT-XL on DC-AE-f32; the network here is LightningDiT's
(arXiv:2501.01423), and the recipe that of `dit_xl_sd_vae_f8d4.py`. Nothing has been trained with
this config.

Latents are 8,192 numbers, so the time shift is 1.41. Set `data.path` to a folder with
`train/<class>/*`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage2()
    config.autoencoder.pretrained = "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers"
    config.data.image_size = 512
    config.data.crop = "center"
    config.data.horizontal_flip = True
    config.denoiser = defaults.denoiser("lightning_dit_xl")
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
