"""The folder of a run, with a note of its kind and settings, so that no two runs mix in it."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from rae_jax.files import AnyPath, absolute, replacing
from rae_jax.sharding.processes import is_main_process, wait_for_all

EXPERIMENT_FILE = "config.json"
"""Name of the note in the folder of a run: its kind and settings."""

_LISTED = 20
_ABSENT = "(absent)"


def open_workdir(
    workdir: str | AnyPath,
    kind: str,
    config: Mapping[str, Any],
    may_change: Collection[str] = (),
    results: Collection[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> AnyPath:
    """Makes the folder of a run and notes its settings, or checks them against those noted.

    Args:
        workdir: Folder, the same for every process.
        kind: What is run there: "stage1", "stage2", ...
        config: Nested settings, JSON values.
        may_change: Dotted names, of settings or of whole sections, that may differ from one start
            to the next ("duration", "loop"); the newest values are noted.
        results: Glob patterns of what a run of this kind leaves behind. As long as nothing of it
            is there, all settings may change: a run that failed at once, for want of memory or
            because of a wrong setting, must not hold the folder. None: it holds it at once.
        defaults: Nested values of settings that a note of an older version may lack, because
            they came later and then could have had no other.

    Returns:
        Absolute path of the folder.

    Raises:
        ValueError: The folder holds another kind of run or other settings.
    """
    folder = absolute(workdir)
    require_experiment(folder, kind, config, may_change, results, defaults)
    # Every process compares with what was there before any of them writes.
    wait_for_all("experiment.compared")
    if is_main_process():
        text = json.dumps({"kind": kind, "config": dict(config)}, indent=2) + "\n"
        with replacing(folder / EXPERIMENT_FILE) as partial:
            partial.write_text(text)
    wait_for_all("experiment.written")
    return folder


def require_experiment(
    workdir: str | AnyPath,
    kind: str,
    config: Mapping[str, Any],
    may_change: Collection[str] = (),
    results: Collection[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """The check of `open_workdir` alone, for before anything large is loaded; writes nothing."""
    folder = absolute(workdir)
    if not (folder / EXPERIMENT_FILE).exists():
        return
    noted_kind, noted = read_experiment(folder)
    if noted_kind != kind:
        raise ValueError(
            f"{folder} holds a run of kind {noted_kind!r}, not {kind!r}; use another --workdir"
        )
    if results is None or any(any(folder.glob(pattern)) for pattern in results):
        settings: dict[str, Any] = json.loads(json.dumps(dict(config)))
        absent: dict[str, Any] = json.loads(json.dumps(dict(defaults or {})))
        _require_same(folder, {**_flat(absent), **_flat(noted)}, _flat(settings), may_change)


def checkpoint_folder(workdir: str | AnyPath) -> AnyPath:
    """Where the run in `workdir` keeps its checkpoints."""
    return absolute(workdir) / "checkpoints"


def read_experiment(workdir: str | AnyPath) -> tuple[str, dict[str, Any]]:
    """Kind and settings of the run in `workdir`.

    Raises:
        FileNotFoundError: No such folder, or no run in it.
        ValueError: The settings file is damaged.
    """
    folder = absolute(workdir)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give the --workdir of a run")
    path = folder / EXPERIMENT_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no run in {folder}: it has no {EXPERIMENT_FILE}; give the --workdir of one"
        )
    try:
        content = json.loads(path.read_text())
        return content["kind"], content["config"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); restore it or use another folder"
        ) from error


def _require_same(
    folder: AnyPath,
    there: dict[str, Any],
    here: dict[str, Any],
    may_change: Collection[str],
) -> None:
    different = [
        name
        for name in sorted(there.keys() | here.keys())
        if there.get(name, _ABSENT) != here.get(name, _ABSENT)
        and not any(name == free or name.startswith(f"{free}.") for free in may_change)
    ]
    if not different:
        return
    lines = [
        f"  {name}: {_shown(there, name)} there, {_shown(here, name)} now"
        for name in different[:_LISTED]
    ]
    if len(different) > _LISTED:
        lines.append(f"  and {len(different) - _LISTED} more")
    raise ValueError(
        f"{folder} holds a run with other settings:\n"
        + "\n".join(lines)
        + "\nset them back to go on with that run, or use another --workdir for a new one"
    )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(flat: Mapping[str, Any], name: str) -> str:
    return repr(flat[name]) if name in flat else _ABSENT
