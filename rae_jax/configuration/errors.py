"""Errors that are told in one line, and what a tool that meets them leaves with."""

USER_ERROR = 2
"""Exit status after an error that the user can put right."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of shells."""

LOST_PROCESS = 69
"""Exit status after the loss of another process of the job: "unavailable" of sysexits.h."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the setting and what it must be."""


class Stopped(Exception):
    """A run ended before its end, not through an error; what it did is saved.

    Attributes:
        exit_status: What a tool leaves with.
    """

    exit_status = 75  # "temporary failure, try again" of sysexits.h


def exit_status(error: BaseException) -> int:
    """What a tool leaves with after `error`."""
    if isinstance(error, Stopped):
        return error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return USER_ERROR if isinstance(error, (ValueError, OSError, FloatingPointError)) else 1
