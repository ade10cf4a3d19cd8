"""What all sections share: checks of values, and parsing of nested dictionaries into sections."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict

from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.resolve import parse_duration

T = TypeVar("T", bound="Section")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """Base of all sections: checks ranges and durations of the fields that a section lists.

    Attributes:
        positive: Names of fields that must be above zero.
        not_negative: Names of fields that must be at least zero.
        fractions: Names of fields that must lie in [0, 1).
        durations: Names of fields that hold a duration above zero.
    """

    positive: ClassVar[tuple[str, ...]] = ()
    not_negative: ClassVar[tuple[str, ...]] = ()
    fractions: ClassVar[tuple[str, ...]] = ()
    durations: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError for the first field whose value cannot be used."""
        for name in self.positive:
            self.require(name, getattr(self, name) > 0, "be above 0")
        for name in self.not_negative:
            self.require(name, getattr(self, name) >= 0, "be at least 0")
        for name in self.fractions:
            self.require(name, 0 <= getattr(self, name) < 1, "be at least 0 and below 1")
        for name in self.durations:
            self.require(name, self.amount(name) > 0, "be above 0")

    def require(self, name: str, holds: bool, must: str) -> None:
        """Raises ConfigError that field `name` must `must`, unless it `holds`."""
        if not holds:
            raise ConfigError(f"{name} must {must}, got {getattr(self, name)!r}")

    def require_defaults(self, names: Iterable[str], where: str) -> None:
        """Raises ConfigError unless these fields, which nothing reads here, are at their defaults.

        Args:
            names: The fields.
            where: Ends the message: when nothing reads them, and what to do.
        """
        for field in dataclasses.fields(self):
            if field.name in names:
                same = getattr(self, field.name) == field.default
                self.require(field.name, same, f"be {field.default!r} {where}")

    def amount(self, name: str) -> float:
        """Number in the duration of field `name`, in its own unit."""
        try:
            return parse_duration(getattr(self, name)).amount
        except ConfigError as error:
            raise ConfigError(f"{name} {error}") from None

    def require_multiple(self, name: str, of: str) -> None:
        """Raises ConfigError unless field `name` is a multiple of field `of`."""
        divisor = getattr(self, of)
        self.require(name, getattr(self, name) % divisor == 0, f"be a multiple of {of}, {divisor}")

    def of_kind(self, values: Mapping[str, Any]) -> "Section":
        """Defaults in whose place the values stand; sections of several kinds choose by them."""
        return self


def field_types(cls: type[Section]) -> dict[str, Any]:
    """Type of each field of `cls` by name."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def nearest(name: str, names: Iterable[str]) -> str:
    """Advice to append to an error about the unknown `name`: the nearest legal one, or all."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"legal are {', '.join(sorted(names))}"


def parse(cls: type[T], values: ConfigDict | Mapping[str, Any]) -> T:
    """Instance of the configuration dataclass `cls` from nested `values`.

    Keys that `values` lacks keep their defaults. Whole numbers are accepted for floats and lists
    for tuples, nothing else is converted.

    Raises:
        ConfigError: Names the full path of an unknown key with the nearest legal key, of a value
            of the wrong type with the type expected and the value received, or of a value that
            the dataclass rejects.
    """
    if isinstance(values, ConfigDict):
        values = values.to_dict()
    return _section(cls(), values, "")


def _section(default: T, values: Any, path: str) -> T:
    """`default` with `values` in it: a section's defaults may differ with where it stands."""
    if not isinstance(values, Mapping):
        expected = type(default).__name__
        raise ConfigError(
            f"{path} must be a section with keys of {expected}, got {_described(values)}"
        )
    default = cast(T, default.of_kind(values))
    cls = type(default)
    types = field_types(cls)
    parsed = {}
    for name, value in values.items():
        where = f"{path}.{name}" if path else str(name)
        if name not in types:
            raise ConfigError(
                f"unknown key {where!r} in {cls.__name__}: {nearest(str(name), types)}"
            )
        inner = getattr(default, name)
        if isinstance(inner, Section):
            parsed[name] = _section(inner, value, where)
        else:
            parsed[name] = _value(types[name], value, where)
    try:
        return dataclasses.replace(default, **parsed)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}" if path else str(error)) from None


def _value(expected: Any, value: Any, path: str) -> Any:
    if get_origin(expected) is tuple:
        return _sequence(expected, value, path)
    if get_origin(expected) is Literal:
        if value not in get_args(expected):
            raise ConfigError(f"{path} must be one of {get_args(expected)}, got {value!r}")
        return value
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise ConfigError(f"{path} must be of type {expected.__name__}, got {_described(value)}")
    return value


def _sequence(expected: Any, value: Any, path: str) -> tuple[Any, ...]:
    items = get_args(expected)
    if not isinstance(value, tuple | list):
        raise ConfigError(f"{path} must be a tuple, got {_described(value)}")
    if items[-1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise ConfigError(f"{path} must hold {len(items)} values, got {_described(value)}")
    pairs = zip(items, value, strict=True)
    return tuple(_value(item, entry, f"{path}[{i}]") for i, (item, entry) in enumerate(pairs))


def _described(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def summary(config: Section, name: str = "") -> list[str]:
    """All settings for a log, a line for each section: "data: source='digits', path='', ..."."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    own = [f"{key}={value!r}" for key, value in fields.items() if not isinstance(value, Section)]
    lines = [f"{name}: {', '.join(own)}" if name else ", ".join(own)] if own else []
    for key, value in fields.items():
        if isinstance(value, Section):
            lines += summary(value, f"{name}.{key}" if name else key)
    return lines


def as_dict(config: Section) -> dict[str, Any]:
    """Nested plain dictionary of all fields; `parse` gives the same instance back."""
    return dataclasses.asdict(config)
