r"""Encodes every image once, and its mirror image, so that stage 2 trains without the encoder.

python tools/cache_latents.py --config=configs/smoke/cache.py --workdir=runs/latents

Then stage 2 with --config.data.source=cached_latents --config.data.path=runs/latents. On one
device or on many hosts; killed at any moment it goes on when started again, and once finished, it
verifies all checksums and makes damaged files anew. See docs/data.md.
"""

from rae_jax.configuration import flags
from rae_jax.configuration.schema import LatentCacheConfig

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()
_PROCESSES = flags.define_processes()


def run(config: LatentCacheConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.sharding import processes
    from rae_jax.training import latent_cache

    with processes.joined(**_PROCESSES()):
        folder = latent_cache.cache_latents(config, str(_WORKDIR.value))
        if processes.is_main_process():
            print(f"cached latents: {folder}")


if __name__ == "__main__":
    flags.main(run, LatentCacheConfig)
