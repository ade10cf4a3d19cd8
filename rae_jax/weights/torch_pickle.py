"""Reads the pickle of a PyTorch file as data: nothing that it names is imported or called.

A pickle is a program for a small stack machine. This machine knows only the instructions that
build plain containers and values; the few functions that a file may ask for are handed in.
"""

import dataclasses
import io
import pickletools
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

MAX_DEPTH = 64
"""Containers inside containers; far more than any file of weights has."""

MAX_NODES = 20_000_000
"""Values in all, each counted as often as it can be reached."""

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_VALUES = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINSTRING", "SHORT_BINSTRING"),  # The text of Python 2.
)
_PLAIN = (dict, list, tuple, str, int, float, type(None))
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MEMO_WRITES = ("BINPUT", "LONG_BINPUT", "MEMOIZE")
_MEMO_READS = ("BINGET", "LONG_BINGET")
_WITHOUT_EFFECT = ("PROTO", "FRAME")


class PickleError(ValueError):
    """A pickle that is damaged, or asks for something that is not admitted."""


@dataclasses.dataclass(frozen=True)
class Global:
    """Something that a pickle may name.

    Attributes:
        name: Module and name, with a dot.
        call: What stands in for it when the pickle calls it; None if it may not be called.
        value: What it stands for as an argument.
    """

    name: str
    call: Callable[..., Any] | None = None
    value: Any = None


def _ordered_dict(*arguments: Any) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for pairs in arguments:
        if not isinstance(pairs, list) or any(
            not isinstance(pair, tuple | list) or len(pair) != 2 for pair in pairs
        ):
            raise PickleError("an OrderedDict is not made of pairs")
        for key, value in pairs:
            _set(made, key, value)
    return made


ORDERED_DICT = Global("collections.OrderedDict", _ordered_dict)
"""Read as a dictionary, which keeps its order too."""


def _set(mapping: Any, key: Any, value: Any) -> None:
    # Keys are hashed, which for nested tuples recurses without a limit.
    if type(mapping) is not dict or not isinstance(key, str | int | float | None):
        raise PickleError(f"only text and numbers are keys, got {type(key).__name__}")
    mapping[key] = value


class _Machine:
    """State of one reading: the stack, the stacks below marks, and the memo."""

    def __init__(self, admitted: Mapping[str, Global], stored: Callable[[Any], Any]):
        self.admitted, self.stored = admitted, stored
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def value_of(self, content: bytes) -> Any:
        """The value that the instructions of a whole pickle leave on the stack."""
        with warnings.catch_warnings():
            # Of Python, about names that are refused anyway.
            warnings.simplefilter("ignore")
            for instruction, argument, _ in pickletools.genops(io.BytesIO(content)):
                if instruction.name == "STOP":
                    return self.stack.pop()
                self.execute(instruction.name, argument)
        raise PickleError("its pickle has no end")

    def execute(self, name: str, argument: Any) -> None:
        """One instruction."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self.taken(_TUPLES[name])))
        elif name in _MEMO_WRITES:
            index = len(self.memo) if name == "MEMOIZE" else argument
            self.memo[index] = self.stack[-1]
        elif name in _MEMO_READS:
            self.stack.append(self.memo[argument])
        elif hasattr(self, f"do_{name.lower()}"):
            getattr(self, f"do_{name.lower()}")(argument)
        elif name not in _WITHOUT_EFFECT:
            raise PickleError(f"the pickle instruction {name} is not admitted")

    def taken(self, count: int) -> list[Any]:
        """The last `count` values, removed from the stack."""
        if len(self.stack) < count:
            raise IndexError("not enough values")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def marked(self) -> list[Any]:
        """The values since the last mark, removed from the stack."""
        values, self.stack = self.stack, self.below.pop()
        return values

    def do_mark(self, argument: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def do_tuple(self, argument: Any) -> None:
        values = tuple(self.marked())
        self.stack.append(values)

    def do_setitem(self, argument: Any) -> None:
        key, value = self.taken(2)
        _set(self.stack[-1], key, value)

    def do_setitems(self, argument: Any) -> None:
        values = self.marked()
        for key, value in zip(values[::2], values[1::2], strict=True):
            _set(self.stack[-1], key, value)

    def do_append(self, argument: Any) -> None:
        self.extend(self.taken(1))

    def do_appends(self, argument: Any) -> None:
        self.extend(self.marked())

    def extend(self, values: list[Any]) -> None:
        """Puts values at the end of the list on the stack."""
        if type(self.stack[-1]) is not list:
            raise PickleError("values are appended to something else than a list")
        self.stack[-1].extend(values)

    def do_global(self, argument: str) -> None:
        self.stack.append(self.found(argument.replace(" ", ".", 1)))

    def do_stack_global(self, argument: Any) -> None:
        module, name = self.taken(2)
        self.stack.append(self.found(f"{module}.{name}"))

    def found(self, name: str) -> Global:
        """What is handed in under this name."""
        if name not in self.admitted:
            raise PickleError(
                f"it asks for {name[:200]!r}, which is neither a tensor nor a plain container, "
                "and is refused"
            )
        return self.admitted[name]

    def do_reduce(self, argument: Any) -> None:
        function, arguments = self.taken(2)
        if (
            not isinstance(function, Global)
            or function.call is None
            or type(arguments) is not tuple
        ):
            what = function.name if isinstance(function, Global) else type(function).__name__
            raise PickleError(f"it calls {what}, which is refused")
        try:
            self.stack.append(function.call(*arguments))
        except TypeError as error:
            raise PickleError(f"wrong arguments of {function.name}: {error}") from None

    def do_build(self, argument: Any) -> None:
        # State dicts carry versions of their modules as an attribute, which nothing here reads.
        state = self.taken(1)[0]
        if type(self.stack[-1]) is not dict or type(state) is not dict:
            raise PickleError(f"it sets the state of a {type(self.stack[-1]).__name__}")

    def do_binpersid(self, argument: Any) -> None:
        self.stack.append(self.stored(self.taken(1)[0]))


def read(
    content: bytes, admitted: Mapping[str, Global], stored: Callable[[Any], Any], leaf: type
) -> Any:
    """The value that a pickle describes.

    Args:
        content: The pickle.
        admitted: What it may name, by module and name.
        stored: Gives the value for an identifier of something that is stored elsewhere.
        leaf: What may stand in the result besides plain values.

    Returns:
        Dictionaries, lists and tuples of plain values and leaves, without cycles.

    Raises:
        PickleError: It is damaged, or asks for something else.
    """
    machine = _Machine(admitted, stored)
    try:
        value = machine.value_of(content)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PickleError(f"its pickle is damaged ({type(error).__name__}: {error})") from None
    _require_tree(value, leaf)
    return value


def _children(value: Any) -> Collection[Any]:
    if type(value) is dict:
        return value.values()
    return value if type(value) in (list, tuple) else ()


def _require_tree(root: Any, leaf: type) -> None:
    """Raises PickleError for cycles, and for more depth or size than a reader can walk.

    Values may be shared, so that few of them can stand for astronomically many: sizes are summed
    up from below, each value being visited once.
    """
    sizes: dict[int, tuple[int, int]] = {}
    open_ids: set[int] = set()
    pending = [(root, False)]
    while pending:
        value, children_done = pending.pop()
        if not isinstance(value, (*_PLAIN, leaf)):
            what = value.name if isinstance(value, Global) else type(value).__name__
            raise PickleError(f"it holds {what} by itself, which is refused")
        if children_done:
            inner = [sizes[id(child)] for child in _children(value)]
            nodes = 1 + sum(size for size, _ in inner)
            depth = 1 + max((depth for _, depth in inner), default=0)
            if depth > MAX_DEPTH or nodes > MAX_NODES:
                raise PickleError(f"its containers are nested {depth} deep, {nodes} values in all")
            sizes[id(value)] = nodes, depth
            open_ids.discard(id(value))
        elif id(value) in open_ids:
            raise PickleError("a container holds itself")
        elif id(value) not in sizes:
            if type(value) in (dict, list, tuple):
                open_ids.add(id(value))
            pending.append((value, True))
            pending += [(child, False) for child in _children(value)]
