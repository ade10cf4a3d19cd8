"""A tiny MAE encoder for the built-in digits, 48 pixels, a 3x3 grid: minutes on two CPU cores.

Its result is bundled as `builtin:digits_mae`.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.pretraining()
    config.data.source = "digits"
    config.data.image_size = 48
    config.data.crop = "none"
    config.encoder.hidden_size = 64
    config.encoder.depth = 4
    config.encoder.num_heads = 4
    config.decoder.hidden_size = 64
    config.decoder.depth = 2
    config.decoder.num_heads = 4
    config.patch_size = 16
    config.mask_ratio = 0.5
    config.image_mean = (0.3, 0.3, 0.3)
    config.image_std = (0.35, 0.35, 0.35)
    config.global_batch_size = 128
    config.duration = "2000 steps"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0
    config.schedule.warmup = "50 steps"
    config.schedule.end = "2000 steps"
    config.schedule.final_learning_rate = 5e-5
    config.ema_decay = 0.99
    config.loop.log_every = "50 steps"
    config.loop.checkpoint_every = "500 steps"
    config.loop.writers = ("jsonl",)
    return config
