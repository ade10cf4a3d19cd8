"""Command line of the tools: `--config=FILE`, overrides `--config.a.b=VALUE`, `--workdir=FOLDER`.

A tool defines its flags, and hands `main` the function that does the work. What a user can put
right is printed as one line, without a traceback (`--verbosity=1` shows it).
"""

import dataclasses
import functools
import importlib.util
import logging as standard_logging
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from rae_jax.configuration.errors import INTERRUPTED, USER_ERROR, ConfigError, Stopped
from rae_jax.configuration.section import Section, nearest, parse
from rae_jax.host_memory import keep_freed_memory

# `--help` shows the flags defined here as those of the tool that defines them.
flags.disclaim_key_flags()

T = TypeVar("T", bound=Section)

CONFIGS = pathlib.Path("configs")

_optional: set[str] = set()


def define_config(
    default: str | None = None, *, required: bool = True
) -> flags.FlagHolder[ConfigDict]:
    """Defines `--config`, a Python file with `get_config()`, and overrides of its keys.

    Args:
        default: The file to use if the command line names none.
        required: Whether there must be one; without, the flag's value is then None.
    """
    if not required:
        _optional.add("config")
    text = "Config file; override with --config.section.key=value."
    if default is not None:
        text += f" Without it: {default}."
        if _config_path(sys.argv) is None:
            # The flag's own default would be parsed at once, overrides included, and the errors
            # in them reported as tracebacks.
            sys.argv.insert(1, f"--config={default}")
    return config_flags.DEFINE_config_file("config", None, help_string=text)


def define_workdir(default: str | None = None) -> flags.FlagHolder[str | None]:
    """Defines `--workdir`, the folder of everything a run writes; required without `default`."""
    return flags.DEFINE_string("workdir", default, "Folder of everything that this run writes.")


def define_init_from() -> Callable[[T], T]:
    """Defines `--init_from`; the function returned puts its value into a config of training."""
    flags.DEFINE_string(
        "init_from", None, "Begin with the weights there; short for --config.init_from."
    )

    def applied(config: T) -> T:
        name = flags.FLAGS["init_from"].value
        return config if name is None else dataclasses.replace(config, init_from=name)

    return applied


def define_processes() -> Callable[[], dict[str, Any]]:
    """Defines the flags that join several processes; the function returned gives their values.

    With them come the settings of this process, which must be those of all.
    """
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "host:port of the first of several processes. TPU slices, Slurm and Open MPI need none of "
        "these.",
    )
    flags.DEFINE_integer("num_processes", None, "How many processes there are.")
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
    flags.DEFINE_float(
        "heartbeat_timeout",
        60.0,
        "Seconds without a sign of life after which the others give a process up.",
        lower_bound=1.0,
    )
    flags.DEFINE_float(
        "start_timeout", 300.0, "Seconds that processes wait for each other.", lower_bound=1.0
    )
    names = (
        *("coordinator_address", "num_processes", "process_id"),
        *("heartbeat_timeout", "start_timeout"),
    )
    return lambda: {**{name: flags.FLAGS[name].value for name in names}, "settings": _settings()}


def _settings() -> dict[str, str]:
    """Everything that a tool does depends on, as text: the config, and other flags on paths."""
    settings: dict[str, str] = {}
    if "config" in flags.FLAGS:
        config = flags.FLAGS.config
        for key in _dotted_keys(config):
            value = functools.reduce(lambda part, name: part[name], key.split("."), config)
            if not isinstance(value, ConfigDict):
                settings[f"config.{key}"] = repr(value)
    workdir = flags.FLAGS["workdir"].value if "workdir" in flags.FLAGS else None
    if workdir:
        settings["workdir"] = workdir if "://" in workdir else str(pathlib.Path(workdir).absolute())
    if "init_from" in flags.FLAGS:
        settings["init_from"] = repr(flags.FLAGS["init_from"].value)
    return settings


def main(run: Callable[[T], None], schema: type[T]) -> None:
    """Runs a tool with the parsed config of `--config`, then leaves the process.

    Call `define_config` before. The process ends with status 0, or 2 after an error that the user
    can put right, such as a missing or wrong flag, a ValueError or a file that cannot be read.
    """
    launch(lambda: run(parse(schema, flags.FLAGS.config)))


def config_of(*schemas: type[Section]) -> Section:
    """The parsed config of `--config`, of the one of the schemas that has its keys.

    Raises:
        ConfigError: It is of none of them, or a value in it cannot be used.
    """
    config = flags.FLAGS.config
    for schema in schemas:
        if {field.name for field in dataclasses.fields(schema)} == set(config):
            return parse(schema, config)
    names = ", ".join(schema.__name__ for schema in schemas)
    raise ConfigError(f"--config must have the keys of one of {names}, got {', '.join(config)}")


def load_config(path: str) -> ConfigDict:
    """What `get_config()` of a config file gives.

    Raises:
        ConfigError: It is no such file, or fails.
    """
    if not pathlib.Path(path).is_file():
        found = sorted(map(str, CONFIGS.glob("**/*.py")))
        raise ConfigError(f"{path} does not exist: {nearest(path, found)}")
    return _load(path)


def launch(run: Callable[..., None], *, takes_words: bool = False) -> None:
    """Runs a tool that has no config, with the same treatment of errors as `main`.

    Args:
        run: Does the work.
        takes_words: Whether the command line may hold words besides flags; `run` gets them.
    """

    def work(argv: Sequence[str]) -> None:
        if len(argv) > 1 and not takes_words:
            _fail(ConfigError(f"unexpected arguments {argv[1:]}; flags are --name=value"))
        logging.get_absl_handler().addFilter(_worth_showing)
        keep_freed_memory()
        try:
            run(*([list(argv[1:])] if takes_words else []))
        except (ValueError, OSError, FloatingPointError) as error:
            _fail(error)
        except Stopped as stop:
            print(stop, file=sys.stderr)
            sys.exit(stop.exit_status)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)

    app.run(work, flags_parser=_parse_flags)


def _worth_showing(record: Any) -> bool:
    # Orbax tells of every file it touches, and of errors, which it raises too, page after page.
    if "orbax" in record.pathname:
        return logging.level_debug()
    # JAX tells of every backend it does not find.
    return record.levelno >= standard_logging.ERROR or "xla_bridge" not in record.pathname


def _fail(error: Exception) -> NoReturn:
    if logging.level_debug():
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        if "config" in flags.FLAGS and not _asks_for_help(argv):
            _check_config(argv)
        remaining = flags.FLAGS(argv)
        if "workdir" in flags.FLAGS and not flags.FLAGS["workdir"].value:
            raise ConfigError("--workdir is missing; pass the folder that this run may write to")
    except (flags.Error, ValueError, OSError) as error:
        _fail(error)
    return remaining


def _asks_for_help(argv: Sequence[str]) -> bool:
    return any(re.fullmatch(r"--?(help\w*|\?)", argument) for argument in argv[1:])


def _check_config(argv: Sequence[str]) -> None:
    """Raises ConfigError for what ml_collections would report late or in its own terms."""
    path = _config_path(argv)
    overrides = [argument for argument in argv[1:] if re.match(r"--?(no)?config\.", argument)]
    if path is None and "config" in _optional and not overrides:
        return
    if path is None:
        found = sorted(map(str, CONFIGS.glob("**/*.py")))
        legal = ", ".join(found) or "the path of a Python file with get_config()"
        raise ConfigError(f"--config is missing; pass one of: {legal}")
    if not pathlib.Path(path).is_file():
        found = sorted(map(str, CONFIGS.glob("**/*.py")))
        raise ConfigError(f"--config={path} does not exist: {nearest(path, found)}")
    keys = _dotted_keys(_load(path))
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if match and match[1] not in keys:
            raise ConfigError(f"unknown key --config.{match[1]}: {_nearest_key(match[1], keys)}")


def _config_path(argv: Sequence[str]) -> str | None:
    path = None
    for position, argument in enumerate(argv):
        match = re.fullmatch(r"--?config(?:=(.*))?", argument)
        if match and match[1] is not None:
            path = match[1]
        elif match and position + 1 < len(argv):
            path = argv[position + 1]
    return path or None


def _load(path: str) -> ConfigDict:
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:
        # A config file is code; whatever it raises is the user's to put right, where it says.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
        place = f"{path}:{lines[-1]}" if lines else path
        raise ConfigError(f"{place}: {type(error).__name__}: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config() must return a ConfigDict, got {config!r}")
    return config


def _one_line(error: Exception) -> str:
    # Locked dictionaries raise an AttributeError around a KeyError, which prints as a repr.
    message: object = error
    while isinstance(message, LookupError | AttributeError) and message.args:
        message = message.args[0]
    return " ".join(str(message).split())


def _dotted_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for name, value in config.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, ConfigDict):
            keys += _dotted_keys(value, f"{prefix}{name}.")
    return keys


def _nearest_key(key: str, keys: Sequence[str]) -> str:
    """Advice about an unknown dotted key: the key alone may also have lost its section."""
    same_name = [legal for legal in keys if legal.split(".")[-1] == key.split(".")[-1]]
    return nearest(key, same_name or keys)
