"""Stage 1 on the built-in digits: a small ViT decoder on the bundled MAE encoder, L1 loss.

About a minute on two CPU cores; reconstructs test digits at about 33 dB.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.stage1()
    config.autoencoder = defaults.digits_autoencoder()
    config.data = defaults.digits_data()
    config.global_batch_size = 64
    config.duration = "500 steps"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.clip_norm = 1.0
    config.schedule.warmup = "40 steps"
    config.schedule.end = "500 steps"
    config.schedule.final_learning_rate = 1e-4
    config.ema_decay = 0.98
    # They need published files; `stage1_gan.py` shows them with random networks.
    config.lpips.weight = 0.0
    config.gan.weight = 0.0
    config.loop.log_every = "20 steps"
    config.loop.checkpoint_every = "100 steps"
    config.loop.preview_every = "250 steps"
    config.loop.writers = ("jsonl",)
    return config
