"""Settings of the whole test run: eight simulated CPU devices and strict array semantics."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # Also for the processes that tests start.

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
