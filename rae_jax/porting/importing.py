"""Published files to the folders and files that the tools here work with."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from flax import nnx

from rae_jax import build
from rae_jax.configuration.errors import ConfigError
from rae_jax.configuration.section import nearest
from rae_jax.files import new_folder, replacing, require_absent
from rae_jax.layers.functional import Buffer, abstract
from rae_jax.models.autoencoders.rae_config import RAEConfig
from rae_jax.porting import plans, text, workdirs
from rae_jax.porting.models import STAGES, FileSizes
from rae_jax.porting.plans import Request
from rae_jax.reconstruction.latent_statistics import LatentStatistics
from rae_jax.weights import autoencoders, checkpoints, convert, hub, readers
from rae_jax.weights.convert import Report, Tensors, WeightError
from rae_jax.weights.errors import WeightFileError
from rae_jax.weights.families import family_of, load_folder, save_folder
from rae_jax.weights.pretrained import (
    ENCODER_FILES,
    encoder_config,
    encoder_from_config,
    encoder_table,
    load_encoder,
    save_encoder,
)
from rae_jax.weights.registry import KINDS, STATISTICS, Statistics
from rae_jax.weights.table import WeightTable
from rae_jax.weights.tables.diffusers_rae import diffusers_rae_table
from rae_jax.weights.tables.vit_layers import find_style
from rae_jax.weights.torch_files import read_torch, require_checksums

_CLOSE = 1e-4


_OPTIONS = {
    "encoder": (),
    "autoencoder": (),
    "statistics": ("encoder", "weights"),
    "decoder": ("config", "model", "encoder", "weights"),
    "dit_dh": ("config", "model", "autoencoder", "statistics", "weights"),
    "lightning_dit": ("config", "model", "autoencoder", "statistics", "weights"),
}
"""Options that each kind reads."""

_NEEDED = ("kind", "source", "output")


def convert_file(
    request: Request, *, dry_run: bool, verify: bool, say: Callable[[str], None]
) -> None:
    """Converts one published file.

    Args:
        request: What, and to where.
        dry_run: Only say which entry goes where; write nothing.
        verify: Read back what was written, export it again and compare it with the source, bit
            for bit; nothing stays if it differs.
        say: Gets what is to be told, line by line.

    Raises:
        FileNotFoundError: A file or folder is missing.
        FileExistsError: There is something at the output already.
        ValueError: Options, files and models do not fit together; every mismatch is listed, and
            nothing is written.
    """
    _require_options(request)
    if not dry_run:
        require_absent(request.output)
    job = {
        "encoder": _encoder,
        "autoencoder": _autoencoder,
        "statistics": _statistics,
    }.get(request.kind, _model)
    job(request, dry_run, verify, say)


def _require_options(request: Request) -> None:
    for name in _NEEDED:
        if not getattr(request, name):
            raise ConfigError(f"--{name} is missing")
    if request.kind not in _OPTIONS:
        raise ConfigError(f"unknown --kind={request.kind}: {nearest(request.kind, _OPTIONS)}")
    for field in dataclasses.fields(request):
        name, known = field.name, (*_NEEDED, *_OPTIONS[request.kind])
        if getattr(request, name) and name not in known:
            raise ConfigError(f"--{name} is not read for --kind={request.kind}; leave it out")


def _read_sets(request: Request) -> dict[str, Tensors]:
    """Sets of weights in the source, by "ema" and "raw"."""
    path = pathlib.Path(request.source)
    if path.suffix not in readers.TORCH_SUFFIXES:
        if request.weights:
            raise ConfigError(f"--weights is not read for {path}, which has one set of weights")
        return {checkpoints.RAW: readers.read_tensors(path)}
    content = read_torch(path)
    require_checksums(path)
    try:
        if not request.weights:
            return dict(checkpoints.weight_sets(content))
        which = request.weights if request.weights == checkpoints.EMA else checkpoints.RAW
        return {which: checkpoints.select(content, request.weights)}
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None


def _tell(report: Report, say: Callable[[str], None]) -> None:
    headings = ("source", "shape", "dtype", "target", "shape", "dtype", "transform")
    rows = [
        (
            row.source,
            str(row.header.shape) if row.header else "",
            row.header.dtype.name if row.header else "",
            row.target,
            str(row.shape) if row.target else "",
            row.dtype,
            row.transform,
        )
        for row in report.rows
    ]
    for line in text.table(headings, rows):
        say(line)


def _require_same(written: Iterable[tuple[str, np.ndarray]], read: Tensors, source: str) -> None:
    different = convert.differences(written, read)
    if different:
        listing = "\n  ".join(different)
        raise WeightError(
            f"what was written is not bit for bit {source}, and was removed:\n  {listing}"
        )


def _model(request: Request, dry_run: bool, verify: bool, say: Callable[[str], None]) -> None:
    sets = _read_sets(request)
    if request.kind == "decoder":
        sets = {which: _decoder_part(tensors) for which, tensors in sets.items()}
    first = next(iter(sets))
    sizes = FileSizes(request.kind, sets[first])
    model, frozen = plans.PLANS[request.kind](request, sizes, dry_run)
    kind, empty = KINDS[request.kind], abstract(model.make)
    table = kind.table(empty)
    reports = {which: convert.report(table, tensors, empty) for which, tensors in sets.items()}
    if dry_run:
        for which, report in reports.items():
            say(f"weights: {which}")
            _tell(report, say)
    problems: list[str] = []
    for which, report in reports.items():
        found = [*report.problems, *_wrong_rotary(kind.constructed(empty), sets[which])]
        found += [] if dry_run else convert.non_finite(report, sets[which])
        problems += [f"{which}: {line}" if len(sets) > 1 else line for line in found]
    shared = _buffer_keys(table, empty)
    convert.require_none(problems or _different_buffers(sets, shared))
    if dry_run:
        return

    def check(folder: pathlib.Path) -> None:
        for which, tensors in sets.items() if verify else ():
            # What both sets share is that of the first.
            kept = set(tensors) - (shared if which != first else set())
            written = convert.exported(table, workdirs.read(folder, model, which))
            _require_same(((k, v) for k, v in written if k in kept), tensors, request.source)

    metadata = {"kind": STAGES[model.kind], "frozen": frozen, "converted": request.source}
    filled = ((which, convert.create(table, t, model.make)) for which, t in sets.items())
    workdirs.write(request.output, model, filled, metadata, check)
    count = sum(header.nbytes for header in _headers(sets))
    say(
        f"{request.output}: a {STAGES[model.kind]} run with the {request.kind} of "
        f"{request.source} ({' and '.join(sets)}, {text.size(count)})"
        f"{_verified(verify)}"
    )


def _headers(sets: Mapping[str, Tensors]) -> list[readers.Header]:
    return [readers.header(tensors, key) for tensors in sets.values() for key in tensors]


def _buffer_keys(table: WeightTable, module: nnx.Module) -> set[str]:
    """Entries that become buffers, of which a work folder has one set."""
    buffers = {".".join(map(str, p)) for p, _ in nnx.to_flat_state(nnx.state(module, Buffer))}
    return {source for rule in table.rules if rule.target in buffers for source in rule.sources}


def _different_buffers(sets: Mapping[str, Tensors], keys: Iterable[str]) -> list[str]:
    """A line for each entry that differs between sets where averaging may only have rounded."""
    first, *others = sets.values()
    return [
        f"entry {key} is another one in each set of weights, though it is not trained; choose one "
        "set with --weights"
        for other in others
        for key in keys
        if key in first and not _is_close(np.asarray(other[key]), np.asarray(first[key]))
    ]


def _decoder_part(tensors: Tensors) -> Tensors:
    """Entries of the decoder, where they are those of a whole autoencoder under training."""
    parts = ("encoder.", "decoder.")
    if not all(key.startswith(parts) for key in tensors):
        return tensors
    start = parts[1]
    return {key.removeprefix(start): tensors[key] for key in tensors if key.startswith(start)}


def _wrong_rotary(ours: Mapping[str, np.ndarray], tensors: Tensors) -> list[str]:
    """Tables of rotary positions tell the grid and the number of heads, which no shape does."""
    return [
        f"entry {key} {readers.header(tensors, key).shape} is not the table of rotary positions "
        f"{table.shape} of these sizes; check the number of heads"
        for key, table in ours.items()
        if key in tensors and not _is_close(np.asarray(tensors[key]), table)
    ]


def _is_close(array: np.ndarray, table: np.ndarray) -> bool:
    array, table = array.astype(np.float32), table.astype(np.float32)
    return array.shape == table.shape and np.allclose(array, table, rtol=_CLOSE, atol=_CLOSE)


def _statistics(request: Request, dry_run: bool, verify: bool, say: Callable[[str], None]) -> None:
    (tensors,) = _read_sets(request).values()
    shape = readers.header(tensors, "mean").shape if "mean" in tensors else ()
    if len(shape) != 3:
        raise WeightError(
            f"{request.source} must hold mean and var of shape [C, h, w], it holds "
            f"{', '.join(f'{key} {readers.header(tensors, key).shape}' for key in tensors)}"
        )
    grid = np.zeros((*shape[1:], shape[0]), np.float32)
    report = convert.report(STATISTICS, tensors, empty := abstract(lambda: Statistics(grid, grid)))
    if dry_run:
        _tell(report, say)
        report.require()
        return
    module = convert.load(STATISTICS, tensors, empty)
    mean, variance = (np.asarray(part[...], np.float64) for part in (module.mean, module.variance))
    if (variance < 0).any():
        raise WeightError(f"{request.source} holds variances below 0")
    # The file does not tell of how many images.
    made = LatentStatistics(0, mean, variance, _statistics_encoder(request, shape[0]))
    with replacing(request.output) as partial:
        made.save(partial)
        if verify:
            again = LatentStatistics.load(partial)
            written = Statistics(again.mean, again.variance)
            _require_same(convert.exported(STATISTICS, written), tensors, request.source)
    say(f"{request.output}: latent statistics of {request.source}{_verified(verify)}")


def _statistics_encoder(request: Request, channels: int) -> str:
    """Fingerprint of the encoder that the statistics belong to; "" if none is named."""
    if not request.encoder:
        return ""
    encoder = plans.load_frozen(request.encoder)
    plans.require_width(encoder, channels, request)
    return build.encoder_fingerprint(encoder)


def _encoder(request: Request, dry_run: bool, verify: bool, say: Callable[[str], None]) -> None:
    folder = hub.resolve(request.source, ENCODER_FILES)
    config = encoder_config(readers.read_json(folder / "config.json"))
    tensors = readers.read_tensors(folder)
    table = encoder_table(config, tensors)
    report = convert.report(table, tensors, encoder_from_config(config, dtype=np.float32))
    if dry_run:
        _tell(report, say)
        report.require()
        return
    module, preprocessing = load_encoder(str(folder), dtype=np.float32)
    with new_folder(request.output) as partial:
        save_encoder(partial, module, preprocessing)
        if verify:
            again, _ = load_encoder(str(partial), dtype=np.float32)
            _require_same(convert.exported(table, again), tensors, request.source)
    left_out = sum(not row.target for row in report.rows)
    say(
        f"{request.output}: the encoder of {request.source}, without {left_out} of its entries, "
        f"which no feature depends on{_verified(verify)}"
    )


def _autoencoder(request: Request, dry_run: bool, verify: bool, say: Callable[[str], None]) -> None:
    folder = autoencoders.find_diffusers(request.source)
    loading = autoencoders.Loading(build.Compute())
    config = readers.read_config(folder / "config.json", RAEConfig.read)
    tensors = readers.read_tensors(folder, autoencoders.DIFFUSERS_STEM)
    table = diffusers_rae_table(config, tensors)
    report = convert.report(table, tensors, autoencoders.empty_parts(config, tensors, loading))
    if dry_run:
        _tell(report, say)
        report.require()
        return
    module = load_folder(folder, loading)
    style = find_style(tensors)
    with new_folder(request.output) as partial:
        save_folder(partial, module, style=style)
        if verify:
            again = load_folder(partial, loading)
            _, written = family_of(again).export(again, style=style)
            used = {key: value for key, value in written.items() if not table.ignores(key)}
            read = {key: tensors[key] for key in used if key in tensors}
            # Some files have one axis more, of length one.
            for key in ("_latents_mean", "_latents_std"):
                if key in read and read[key].size == used[key].size:
                    read[key] = read[key].reshape(used[key].shape)
            _require_same(used.items(), read, request.source)
    say(f"{request.output}: the autoencoder of {request.source}{_verified(verify)}")


def _verified(verify: bool) -> str:
    return ", verified bit for bit" if verify else ""
