"""What is collected while a YAML file of the RAE release becomes a config of ours."""

from typing import Any

from ml_collections import ConfigDict

from rae_jax.configuration import defaults, schema

KINDS: dict[str, tuple[str, type]] = {
    "stage1": ("stage1", schema.Stage1Config),
    "stage2": ("stage2", schema.Stage2Config),
    "sampling": ("sampling", schema.SamplingConfig),
    "reconstruction": ("reconstruction", schema.ReconstructionConfig),
}
"""What a file can become -> its starting point in `defaults`, and its schema."""

_NOWHERE = "a config of this kind has no {}"
_ELSEWHERE = {
    "sampling": "{} is that of the run that is sampled",
    "reconstruction": "{} is that of the run that reconstructs",
}

Leaves = dict[str, Any]
"""Values by the dotted path of their key; "-" in names of keys is "_"."""


class Conversion:
    """Collects what becomes of the keys of one file.

    Attributes:
        kind: What the file becomes.
        leaves: The file's keys.
        settings: Keys of our config and their values.
        outcomes: What became of each key of the file, in words.
        derived: Settings that no key of the file says by itself.
        commands: Commands that make the files which the config names.
    """

    def __init__(self, kind: str, leaves: Leaves):
        self.kind = kind
        self.leaves = leaves
        self.settings: dict[str, Any] = {}
        self.outcomes: dict[str, str] = {}
        self.derived: list[str] = []
        self.commands: list[str] = []
        self._start = getattr(defaults, KINDS[kind][0])()

    def get(self, key: str, default: Any = None) -> Any:
        """Value of a key of the file, if it is there and not empty."""
        value = self.leaves.get(key)
        return default if value is None else value

    def has(self, setting: str) -> bool:
        """Whether configs of this kind have a key; those of a kind of denoiser pass."""
        section: Any = self._start
        for name in setting.split("."):
            if not isinstance(section, ConfigDict) or name not in section:
                return setting.startswith("denoiser.") and "denoiser" in self._start
            section = section[name]
        return True

    def set(self, setting: str, value: Any) -> str:
        """Sets a key of our config, if it has it; gives the outcome.

        Raises:
            ValueError: Another key of the file has set it to something else.
        """
        if not self.has(setting):
            return f"nothing: {_ELSEWHERE.get(self.kind, _NOWHERE).format(setting)}"
        before = self.settings.setdefault(setting, value)
        if before != value:
            raise ValueError(f"{setting} would be {before!r} by one key and {value!r} by another")
        return f"{setting} = {value!r}"

    def command(self, text: str) -> None:
        """Notes a command that the user has to run before."""
        if text not in self.commands:
            self.commands.append(text)

    @property
    def unknown(self) -> list[str]:
        """Keys of the file that no rule knows."""
        return [key for key in self.leaves if key not in self.outcomes]
