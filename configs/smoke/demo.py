"""The demo: the other configs of this folder in a row, and guided samples besides."""

import pathlib
import runpy

from rae_jax.configuration import defaults


def _beside(name):
    # Config files are run by their path, so there is no package to import the others from.
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    return runpy.run_path(str(path))["get_config"]()


def get_config():
    config = defaults.demo()
    for name in ("stage1", "statistics", "stage2", "sampling"):
        config[name] = _beside(name)
    config.guided = _beside("sampling")
    config.guided.guidance.method = "classifier_free"
    config.guided.guidance.scale = 1.5
    return config
