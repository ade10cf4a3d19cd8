"""Stage 2 on the built-in digits: a small DiTDH on the latents of the bundled encoder.

About four minutes on two CPU cores. Set `autoencoder.checkpoint` to the work folder of
stage 1 and `autoencoder.statistics` to the file of latent statistics.

The base of the time shift is 64, the number of values in a digit: enlarged 8x8 pictures hold no
more, however many numbers their latents have.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage2()
    config.autoencoder = defaults.digits_autoencoder()
    config.autoencoder.checkpoint = "runs/stage1"
    config.autoencoder.statistics = "runs/statistics/latent_statistics.npz"
    config.data = defaults.digits_data()
    config.denoiser.backbone_hidden_size = 128
    config.denoiser.backbone_depth = 3
    config.denoiser.backbone_num_heads = 4
    config.denoiser.head_hidden_size = 128
    config.denoiser.head_depth = 1
    config.denoiser.head_num_heads = 4
    config.denoiser.num_classes = 10
    config.transport.time_shift_base = 64
    config.global_batch_size = 64
    config.duration = "4000 steps"
    config.optimizer.learning_rate = 3e-3
    config.schedule.kind = "cosine"
    config.schedule.warmup = "50 steps"
    config.schedule.warmup_from_zero = True
    config.schedule.end = "4000 steps"
    config.schedule.final_learning_rate = 1.5e-4
    config.ema_decay = 0.998
    config.unroll = 3
    config.loop.log_every = "50 steps"
    config.loop.checkpoint_every = "500 steps"
    config.loop.preview_every = "1000 steps"
    config.loop.writers = ("jsonl",)
    return config
