"""Every file in configs/ loads, and every value in it is legal."""

import dataclasses
import importlib.util
import pathlib

import pytest
from ml_collections import ConfigDict

from rae_jax.configuration import schema
from rae_jax.configuration.section import Section

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").rglob("*.py"))


def load(path: pathlib.Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location("config_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def schema_of(config: ConfigDict) -> type[Section]:
    """The one configuration class that has exactly the keys of `config`."""
    classes = [
        cls
        for cls in vars(schema).values()
        if isinstance(cls, type)
        and issubclass(cls, Section)
        and {field.name for field in dataclasses.fields(cls)} == set(config)
    ]
    assert len(classes) == 1, f"{sorted(config)} are the keys of {classes}"
    return classes[0]


def parse(path: pathlib.Path) -> Section:
    config = load(path)
    return schema.parse(schema_of(config), config)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_is_legal_locked_and_documented(path):
    config = load(path)
    assert config.is_locked
    assert isinstance(parse(path), schema_of(config))
    assert load(path) == config
