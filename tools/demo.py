"""The whole pipeline on the built-in handwritten digits, in minutes on two CPU cores.

python tools/demo.py

Trains a decoder on the bundled encoder, computes latent statistics, trains a denoiser, samples
with and without guidance, decodes and scores. Interrupted, it goes on where it was when started
again; finished, it says so. Everything lands in --workdir (runs/demo).
"""

import pathlib

from rae_jax.configuration import flags
from rae_jax.configuration.schema import DemoConfig

_CONFIG = flags.define_config(
    str(pathlib.Path(__file__).resolve().parent.parent / "configs" / "smoke" / "demo.py")
)
_WORKDIR = flags.define_workdir("runs/demo")


def run(config: DemoConfig) -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.training import demo

    demo.run(config, str(_WORKDIR.value))


if __name__ == "__main__":
    flags.main(run, DemoConfig)
