"""Lists of class labels as text: "3,1,4", "0-9", "0-9,15"."""

import re

from rae_jax.configuration.errors import ConfigError

_PART = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


def parse_labels(text: str) -> list[range]:
    """The labels named in `text`, in its order; a range includes both of its ends.

    Raises:
        ConfigError: `text` is not labels and rising ranges of labels with commas between them.
    """
    ranges = []
    for part in text.split(","):
        match = _PART.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first:
            raise ConfigError(
                "must be 'equal', 'random' or labels and ranges such as '3,1,4' or '0-9,15', got "
                f"{text!r}"
            )
        ranges.append(range(first, last + 1))
    return ranges
