"""Rules for single values of the RAE release's YAML files, of which `original_rules` is made.

A rule takes the conversion and the value, sets keys of our config, and says what it did.
"""

from collections.abc import Callable
from typing import Any

from rae_jax.porting.original_conversion import Conversion

Rule = Callable[[Conversion, Any], str]


def to(setting: str, convert: Callable[[Any], Any] = lambda value: value) -> Rule:
    """A value that is a setting of ours; where it is empty, ours stays as it is by default."""

    def rule(conversion: Conversion, value: Any) -> str:
        return "nothing: it is empty" if value is None else conversion.set(setting, convert(value))

    return rule


def nothing(reason: str) -> Rule:
    """A value that needs nothing here, and why."""
    return lambda conversion, value: f"nothing: {reason}"


def only(legal: tuple[Any, ...], reason: str) -> Rule:
    """A value that has to be what is always so here."""

    def rule(conversion: Conversion, value: Any) -> str:
        if value not in legal:
            raise ValueError(f"it must be {' or '.join(map(repr, legal))}: {reason}")
        return f"nothing: {reason}"

    return rule


def number(value: Any) -> float:
    """A number; YAML takes "1e-4", without a point, for text."""
    return float(value)


def lower(value: Any) -> str:
    """A name as we spell it."""
    return str(value).lower().replace("-", "_")


def of(table: dict[str, str]) -> Callable[[Any], str]:
    """Converts names by a table, and refuses others."""

    def convert(value: Any) -> str:
        if lower(value) not in table:
            raise ValueError(f"it must be one of {', '.join(table)}")
        return table[lower(value)]

    return convert


def in_unit(unit: str) -> Callable[[Any], str]:
    """Makes durations of numbers."""
    return lambda value: f"{number(value):g} {unit}"


def pair(first: str, second: str) -> Rule:
    """A list of two numbers that are settings of their own."""

    def rule(conversion: Conversion, value: Any) -> str:
        one, other = value
        return f"{conversion.set(first, number(one))}, {conversion.set(second, number(other))}"

    return rule
