"""How long the training step of DiTDH-XL takes to compile, in processes that start anew.

python -m rae_jax.benchmarking.compilation

compiles it once, of shapes alone, and prints what it took as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from rae_jax.benchmarking.presets import Settings
from rae_jax.benchmarking.report import Row
from rae_jax.host_memory import keep_freed_memory


def measure(settings: Settings, rounds: int) -> list[Row]:
    """Compiles with an empty cache, then with a filled one `rounds` times.

    Raises:
        ValueError: A process failed.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark.") as cache:
        cold = _elsewhere(settings, cache)
        warm = [_elsewhere(settings, cache) for _ in range(rounds)]
    median = sorted(warm, key=lambda took: took["process s"])[len(warm) // 2]
    return [
        {"start": name, "batch": settings.batch_size, **took}
        for name, took in (("empty cache", cold), ("filled cache", median))
    ]


def _elsewhere(settings: Settings, cache: str) -> dict[str, float]:
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", "rae_jax.benchmarking.compilation"],
        input=json.dumps(vars(settings)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise ValueError(f"the process that compiles failed: {process.stderr.strip()}")
    took = json.loads(process.stdout.splitlines()[-1])
    return {**took, "process s": time.perf_counter() - start}


def _compile(settings: Settings) -> dict[str, float]:
    keep_freed_memory()  # As the tools do.

    import jax
    import jax.numpy as jnp

    from rae_jax.benchmarking import parts
    from rae_jax.training import stage2

    count, shape = settings.batch_size, settings.sizes.latent_shape
    start = time.perf_counter()
    config = parts.stage2_config(settings, settings.sizes.denoiser)
    program = stage2.make_program(config, shape, None, {}, num_records=parts.IMAGENET)
    batch = {
        "latents": jax.ShapeDtypeStruct((count, *shape), jnp.float32),
        "labels": jax.ShapeDtypeStruct((count,), jnp.int32),
    }
    state = jax.eval_shape(program.initial_state)
    lowered = jax.jit(program.step, donate_argnums=0).lower(state, program.frozen, batch)
    traced = time.perf_counter()
    lowered.compile()
    return {"trace s": traced - start, "compile s": time.perf_counter() - traced}


if __name__ == "__main__":
    print(json.dumps(_compile(Settings(**json.load(sys.stdin)))))
