"""What the `config.json` of every autoencoder of diffusers has in common."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def entries_of(
    content: Mapping[str, Any], class_name: str, fields: tuple[dataclasses.Field[Any], ...]
) -> dict[str, Any]:
    """The options in a file; what diffusers notes for itself begins with `_` and is left out.

    Args:
        content: Of the file.
        class_name: Of the autoencoder it must be of.
        fields: The options that this has.

    Raises:
        ValueError: It is of another class, or has unknown entries.
    """
    if content.get("_class_name") != class_name:
        raise ValueError(f"_class_name must be {class_name!r}, got {content.get('_class_name')!r}")
    values = {name: value for name, value in content.items() if not name.startswith("_")}
    unknown = sorted(values.keys() - {field.name for field in fields})
    if unknown:
        raise ValueError(f"entries that {class_name} does not have: {', '.join(unknown)}")
    return values
