"""YAML files of the RAE release to config files of ours; every key is accounted for.

`original_rules` says what becomes of each key. Here files are read, and what the rules have set is
checked by the schema and written.
"""

import dataclasses
import json
import pathlib
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from rae_jax.configuration import schema
from rae_jax.configuration.errors import ConfigError
from rae_jax.files import replacing, require_absent
from rae_jax.porting import original_rules
from rae_jax.porting.original_conversion import KINDS, Conversion, Leaves


@dataclasses.dataclass(frozen=True)
class Converted:
    """A config file and the account of its making.

    Attributes:
        kind: What it is a config of.
        text: Of the Python file.
        outcomes: What became of each key that is known, in words.
        unknown: Keys that are not.
        derived: Settings that no key of the file says by itself.
        commands: To run before: they make the files that the config names.
    """

    kind: str
    text: str
    outcomes: Mapping[str, str]
    unknown: tuple[str, ...]
    derived: tuple[str, ...]
    commands: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """The account, for people."""
        yield f"a config of {self.kind}"
        for key, outcome in self.outcomes.items():
            yield f"{key} -> {outcome}"
        for key in self.unknown:
            yield f"{key} -> UNKNOWN: nothing became of it"
        for setting in self.derived:
            yield f"besides: {setting}"
        for command in self.commands:
            yield f"run before: {command}"


def convert(path: str, kind: str = "") -> Converted:
    """The config that a file of the RAE release describes.

    Args:
        path: YAML file.
        kind: One of `KINDS`; by default what the sections of the file are for.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, or asks for what is not done here.
    """
    leaves = read(path)
    kind = kind or _kind(path, leaves)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    conversion = Conversion(kind, leaves)
    for key, value in leaves.items():
        rule = original_rules.find(key)
        if rule is None:
            continue
        try:
            conversion.outcomes[key] = rule(conversion, value)
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f"{path}: {key}: {value!r} cannot be converted: {error}") from error
    original_rules.derive(conversion)
    _require_legal(path, conversion)
    return Converted(
        kind,
        _written(pathlib.Path(path).name, conversion),
        conversion.outcomes,
        tuple(conversion.unknown),
        tuple(conversion.derived),
        tuple(conversion.commands),
    )


def convert_file(path: str, output: str, kind: str = "") -> Converted:
    """Writes `convert(path, kind)` to the new file `output`.

    Raises:
        FileExistsError: There is a file at `output`.
        FileNotFoundError: There is none at `path`.
        ValueError: It is no such file, or asks for what is not done here.
    """
    require_absent(output)
    converted = convert(path, kind)
    with replacing(output) as partial:
        partial.write_text(converted.text, encoding="utf-8")
    return converted


def read(path: str) -> Leaves:
    """All keys of a YAML file with their values, lists being values.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be parsed, or is no mapping of sections.
    """
    try:
        content = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold sections such as stage_1, got {content!r}")
    return dict(_flat(content))


def _flat(section: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        key = prefix + str(name).replace("-", "_")
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _kind(path: str, leaves: Leaves) -> str:
    sections = {key.split(".")[0] for key in leaves}
    if "stage_2" in sections:
        return "stage2" if "training" in sections else "sampling"
    if sections & {"gan", "training"}:
        return "stage1"
    if "stage_1" in sections:
        return "reconstruction"
    raise ValueError(f"{path} must have a section stage_1 or stage_2, it has {sorted(sections)}")


def _require_legal(path: str, conversion: Conversion) -> None:
    """Raises ValueError if our schema refuses the settings together."""
    nested: dict[str, Any] = {}
    for setting, value in conversion.settings.items():
        *sections, name = setting.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    try:
        schema.parse(KINDS[conversion.kind][1], nested)
    except ConfigError as error:
        raise ValueError(f"{path} becomes a config of {conversion.kind} whose {error}") from error


def _written(name: str, conversion: Conversion) -> str:
    paragraphs = [f"Converted from {name} of the RAE release by tools/convert_config.py."]
    if conversion.has("data.path"):
        paragraphs.append("Set `data.path` to a folder with `train/<class>/*`.")
    if conversion.unknown:
        paragraphs.append(f"Nothing became of the unknown keys {', '.join(conversion.unknown)}.")
    body = "\n\n".join(textwrap.fill(text, 96, break_long_words=False) for text in paragraphs)
    if conversion.commands:
        commands = (command.replace(" --", " \\\n        --") for command in conversion.commands)
        body += "\n\nThe files it names are made by\n\n" + "\n".join(f"    {c}" for c in commands)
    lines = [
        f"    config.{setting} = {_literal(value)}"
        for setting, value in conversion.settings.items()
        if setting != "denoiser.kind"
    ]
    kind = conversion.settings.get("denoiser.kind")
    if kind:
        lines.insert(0, f'    config.denoiser = defaults.denoiser("{kind}_xl")')
    quote = 'r"""' if "\\" in body else '"""'
    return (
        f'{quote}{body}\n"""\n\n'
        "from rae_jax.configuration import defaults\n\n\n"
        "def get_config():\n"
        f"    config = defaults.{KINDS[conversion.kind][0]}()\n"
        + "\n".join(lines)
        + "\n    return config\n"
    )


def _literal(value: Any) -> str:
    # The formatter of this project likes these quotes; JSON's text is Python's too.
    return json.dumps(value) if isinstance(value, str) else repr(value)
