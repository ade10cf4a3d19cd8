"""A tool as thin as they come; some values of `data.path` make it fail."""

from rae_jax.configuration import flags, schema

_CONFIG = flags.define_config()
_WORKDIR = flags.define_workdir()


def run(config: schema.Stage1Config) -> None:
    if config.data.path == "missing":
        raise FileNotFoundError("no image folder missing")
    if config.data.path == "fault":
        raise RuntimeError("a fault of the program")
    if config.data.path == "interrupt":
        raise KeyboardInterrupt
    data, loop = config.data, config.loop
    print(
        _WORKDIR.value,
        config.seed,
        config.optimizer.learning_rate,
        data.horizontal_flip,
        loop.writers,
    )


if __name__ == "__main__":
    flags.main(run, schema.Stage1Config)
