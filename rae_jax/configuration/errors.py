"""The error of every wrong setting."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the setting and what it must be."""
