"""Errors of weight files."""


class WeightFileError(ValueError):
    """A weight file that is damaged or of another format; the message names the file."""
