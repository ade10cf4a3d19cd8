"""Runs, statistics and encoders to the files that PyTorch code reads."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rae_jax import build
from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.schema import Stage1Config, parse
from rae_jax.configuration.section import nearest
from rae_jax.files import any_path, new_folder, replacing, require_absent
from rae_jax.porting import workdirs
from rae_jax.porting.models import STAGES
from rae_jax.pretrained import is_run, load_autoencoder, save_autoencoder
from rae_jax.reconstruction.latent_statistics import LatentStatistics
from rae_jax.weights import checkpoints, convert, writers
from rae_jax.weights.convert import Tensors, WeightError
from rae_jax.weights.families import family_of
from rae_jax.weights.pretrained import load_encoder, save_encoder
from rae_jax.weights.readers import SafetensorFile
from rae_jax.weights.registry import AUTOENCODER, KINDS, NAMES, STATISTICS, Statistics
from rae_jax.weights.torch_files import read_torch, write_torch

_BOTH = "both"
RELEASE = "release"
"""Kind of a folder with all that can be made of a stage-1 run."""

_FOLDERS = ("encoder", AUTOENCODER, RELEASE)
_NAMES = {checkpoints.EMA: "ema", checkpoints.RAW: "model"}
"""Keys of the sets of weights in a training checkpoint of the original."""


def export_file(
    kind: str,
    source: str,
    output: str,
    *,
    weights: str = checkpoints.EMA,
    statistics: str = "",
    verify: bool = False,
    say: Callable[[str], None],
) -> None:
    """Writes one published file.

    Args:
        kind: Name in the registry, or `RELEASE`.
        source: A work folder, an npz of statistics, or the name of an encoder.
        output: A file (.pt or .safetensors), or for encoders, autoencoders and releases a folder.
        weights: "ema", "raw", or "both" as a training checkpoint `{"model": ..., "ema": ...}`.
        statistics: For autoencoders and releases, an npz of latent statistics to write into it.
        verify: Read back what was written and compare it bit for bit; nothing stays if it differs.
        say: Gets what is to be told, line by line.

    Raises:
        FileNotFoundError: The source is missing.
        FileExistsError: There is something at the output already.
        ValueError: Kind and source, or options, do not fit together.
    """
    _require_options(kind, source, output, weights, statistics)
    require_absent(output)
    if kind == "encoder":
        _encoder(source, output, verify)
    elif kind == AUTOENCODER:
        _autoencoder(source, output, weights, statistics, verify)
    elif kind == RELEASE:
        _release(source, output, weights, statistics, verify, say)
    else:
        content = _statistics(source) if kind == "statistics" else _model(kind, source, weights)
        _write(output, content, verify)
    say(f"{output}: the {kind} of {source}{', verified bit for bit' if verify else ''}")


def _require_options(kind: str, source: str, output: str, weights: str, statistics: str) -> None:
    for name, value in (("kind", kind), ("source", source), ("output", output)):
        if not value:
            raise ConfigError(f"--{name} is missing")
    if kind not in (*NAMES, RELEASE):
        raise ConfigError(f"unknown --kind={kind}: {nearest(kind, (*NAMES, RELEASE))}")
    if statistics and kind not in (AUTOENCODER, RELEASE):
        raise ConfigError(f"--statistics is not read for --kind={kind}; leave it out")
    legal = (*_NAMES, _BOTH) if kind in STAGES else tuple(_NAMES)
    if weights not in legal:
        raise ConfigError(f"--weights must be one of {legal} for --kind={kind}, got {weights!r}")
    if kind not in _FOLDERS:
        _require_suffix(output, weights)


def _require_suffix(output: str, weights: str) -> None:
    suffixes = (".pt",) if weights == _BOTH else (".pt", ".safetensors")
    if pathlib.Path(output).suffix not in suffixes:
        raise ConfigError(f"--output={output} must end in {' or '.join(suffixes)}")


def _encoder(source: str, output: str, verify: bool) -> None:
    module, preprocessing = load_encoder(source, dtype=np.float32)
    with new_folder(output) as partial:
        save_encoder(partial, module, preprocessing)
        if verify:
            again, _ = load_encoder(str(partial), dtype=np.float32)
            table = KINDS["encoder"].table(module)
            _require_same(convert.export(table, again), convert.export(table, module), output)


def _autoencoder(source: str, output: str, weights: str, statistics: str, verify: bool) -> None:
    options: dict[str, Any] = {"weights": weights} if is_run(any_path(source)) else {}
    options |= {"statistics": statistics} if statistics else {}
    module = load_autoencoder(source, **options)
    with new_folder(output) as partial:
        save_autoencoder(partial, module)
        if verify:
            _, written = family_of(module).export(module)
            _, again = family_of(module).export(load_autoencoder(str(partial)))
            _require_same(again, written, output)


def _release(
    source: str,
    output: str,
    weights: str,
    statistics: str,
    verify: bool,
    say: Callable[[str], None],
) -> None:
    """Decoder, statistics and encoder as files of their own, and all of it for diffusers."""
    run = parse(Stage1Config, build.require_kind(source, build.STAGE1))
    with new_folder(output) as partial:
        _write(str(partial / "model.pt"), _model("decoder", source, weights), verify)
        if statistics:
            _write(str(partial / "stat.pt"), _statistics(statistics), verify)
        _encoder(run.autoencoder.encoder.path, str(partial / "encoder"), verify)
        try:
            _autoencoder(source, str(partial / "diffusers"), weights, statistics, verify)
        except ValueError as error:
            if isinstance(error, WeightError):
                raise
            say(f"{output}: without diffusers/, which cannot express this autoencoder: {error}")


def _statistics(source: str) -> Tensors:
    statistics = LatentStatistics.load(source)
    return convert.export(STATISTICS, Statistics(statistics.mean, statistics.variance))


def _model(kind: str, source: str, weights: str) -> Mapping[str, Any]:
    model = workdirs.describe(source, kind)
    sets = {}
    for which in _NAMES if weights == _BOTH else (weights,):
        module = workdirs.read(source, model, which)
        tensors = convert.export(KINDS[kind].table(module), module)
        sets[_NAMES[which]] = tensors | KINDS[kind].constructed(module)
    return sets if weights == _BOTH else next(iter(sets.values()))


def _write(output: str, content: Mapping[str, Any], verify: bool) -> None:
    as_torch = pathlib.Path(output).suffix == ".pt"
    with replacing(output) as partial:
        (write_torch if as_torch else writers.write_tensors)(partial, content)
        if verify:
            read = read_torch(partial) if as_torch else SafetensorFile(partial)
            _require_same(_flat(content), _flat(read), output)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for key, value in content.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _require_same(written: Tensors, read: Tensors, output: str) -> None:
    different = convert.differences(written.items(), read)
    if different:
        listing = "\n  ".join(different)
        raise WeightError(f"{output} does not read back bit for bit:\n  {listing}")
