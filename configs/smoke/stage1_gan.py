"""Stage 1 on the built-in digits with every loss: L1, then LPIPS, then a discriminator.

The networks behind LPIPS and the discriminator are small and have random weights, so no file is
needed; their phases follow one another as in the published recipe. Six minutes on two CPU cores.
"""

import pathlib
import runpy

from rae_jax.configuration import defaults

RANDOM_FEATURES = "builtin:random_features"


def get_config():
    # Config files are run by their path, so there is no package to import the other from.
    plain = pathlib.Path(__file__).with_name("stage1.py")
    config = runpy.run_path(str(plain))["get_config"]()
    published = defaults.stage1()
    config.lpips = published.lpips
    config.lpips.path = RANDOM_FEATURES
    config.lpips.start = "100 steps"
    config.gan = published.gan
    config.gan.discriminator.path = RANDOM_FEATURES
    config.gan.discriminator.key_depths = (0, 1, 2)
    config.gan.discriminator_start = "200 steps"
    config.gan.start = "300 steps"
    config.gan.optimizer.learning_rate = 2e-4
    config.gan.schedule.warmup = config.schedule.warmup
    config.gan.schedule.end = config.schedule.end
    config.global_batch_size = 32
    config.loop.log_every = "10 steps"
    return config
