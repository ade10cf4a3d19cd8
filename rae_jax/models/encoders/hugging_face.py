"""Sizes of encoders in the `config.json` files of the transformers library."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """How a configuration class and a `config.json` say the same.

    Attributes:
        title: What error messages call the model.
        architecture: Class of transformers that the file is for.
        model_type: Its `model_type`.
        names: The file's name of each field.
        fixed: Entries that must have one value if the file has them, and are written.
        complete: Whether a file must hold every field; otherwise it may leave out those that
            equal the defaults of the configuration class.
    """

    title: str
    architecture: str
    model_type: str
    names: Mapping[str, str]
    fixed: Mapping[str, Any]
    complete: bool = True

    def read(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that a file gives.

        Raises:
            ValueError: If one is missing or no number, or the model differs in a way that is not
                supported.
        """
        missing = [name for name in self.names.values() if name not in content]
        if missing and self.complete:
            raise ValueError(f"the {self.title} config lacks {', '.join(missing)}")
        for name, value in {"model_type": self.model_type, **self.fixed}.items():
            if content.get(name, value) != value:
                raise ValueError(
                    f"{self.title} encoders need {name} {value!r}, got {content[name]!r}"
                )
        present = {ours: name for ours, name in self.names.items() if name in content}
        for name in present.values():
            if not isinstance(content[name], int | float):
                raise ValueError(
                    f"{name} of the {self.title} config must be a number, got {content[name]!r}"
                )
        return {ours: content[name] for ours, name in present.items()}

    def write(self, config: Any) -> dict[str, Any]:
        """Contents of a file that `read` reads back to the fields of `config`."""
        sizes = {name: getattr(config, ours) for ours, name in self.names.items()}
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **self.fixed,
            **sizes,
        }


SIZES = {
    "hidden_size": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "patch_size": "patch_size",
    "image_size": "image_size",
    "layer_norm_eps": "layer_norm_eps",
}
"""Fields that every vision transformer has."""
