"""The error of every wrong setting."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the setting and what it must be."""


class Stopped(Exception):
    """A run ended before its end, not through an error; what it did is saved.

    Attributes:
        exit_status: What a tool leaves with.
    """

    exit_status = 75  # "temporary failure, try again" of sysexits.h
