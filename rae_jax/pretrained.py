"""Autoencoders by name: what diffusers, the RAE collections and our own training have written."""

import dataclasses
import os
from typing import Any, TypeVar, get_args

import jax
from flax import nnx
from jax.sharding import Mesh

from rae_jax import build
from rae_jax.checkpointing.experiment import EXPERIMENT_FILE
from rae_jax.configuration.schema import Stage1Config, parse
from rae_jax.files import AnyPath, any_path
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.autoencoders.tiling import Tiling
from rae_jax.models.compute import Compute
from rae_jax.sharding.rules import tree_shardings
from rae_jax.typing import DTypeLike
from rae_jax.weights import autoencoders, readers
from rae_jax.weights.families import FAMILIES, AnyAutoencoder, load_folder, save_folder
from rae_jax.weights.tables.vit_layers import Style

A = TypeVar("A", bound=AnyAutoencoder)

_PUBLISHED_ONLY = ("decoder", "encoder_input_size", "num_heads")
_TRAINED_ONLY = ("weights",)


def load_autoencoder(
    name: str | os.PathLike[str],
    *,
    dtype: DTypeLike = "float32",
    mesh: Mesh | None = None,
    revision: str | None = None,
    slice_size: int | None = None,
    tiling: Tiling | None = None,
    unroll: int = 1,
    remat: str = "none",
    **source: Any,
) -> AnyAutoencoder:
    """A published or a trained autoencoder.

    Args:
        name: One of three. A folder or hub repository that diffusers wrote
            ("nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08"), of any class in `FAMILIES`. The work
            folder of a stage-1 run. With `decoder=`, an encoder's folder or hub repository.
        dtype: Compute dtype; parameters are float32.
        mesh: Arrays go to their shards on it, straight from published files.
        revision: Branch, tag or commit on the hub.
        slice_size: Images at a time inside encoder and decoder; None takes the whole batch.
        tiling: How large images are cut into tiles; None never cuts. Not of a RAE.
        unroll: Layers per iteration of the loops over layers.
        remat: What the backward pass recomputes, see `scan_layers`.
        **source: Of a folder or repository of a whole pipeline of diffusers: `subfolder`, "vae" as
            a rule. Of a stage-1 run: `weights`, "ema" (as unless given) or "raw", and `statistics`,
            an npz of ours. With an encoder: `decoder`, the `model.pt` of the RAE collections,
            `statistics`, their `stat.pt`, and `encoder_input_size` and `num_heads` if they are
            not the published ones (see `weights.autoencoders.load_published`).

    Raises:
        FileNotFoundError: Something is missing; the message says what to download.
        ValueError: Files or arguments do not fit together.
    """
    name = os.fspath(name)
    compute = Compute(dtype, unroll, remat)
    loading = autoencoders.Loading(compute, slice_size, tiling, mesh)
    folder = any_path(name).expanduser()
    if "decoder" in source or is_run(folder):
        loading.refuse_tiling()
    if "decoder" in source:
        _require_known(source, (*_PUBLISHED_ONLY, "statistics"), "an encoder with a decoder's file")
        statistics = source.pop("statistics", None)
        decoder = source.pop("decoder")
        loaded = autoencoders.load_published(
            name, decoder, statistics, loading, revision=revision, **source
        )
        return _on(mesh, loaded)
    if is_run(folder):
        _require_known(source, (*_TRAINED_ONLY, "statistics"), "a stage-1 run")
        if revision is not None:
            raise ValueError(f"{name} is not on the hub, so it has no revision {revision!r}")
        return _on(mesh, _trained(folder, loading, **source))
    _require_known(source, ("subfolder",), "a folder of diffusers")
    found = autoencoders.find_diffusers(name, revision, source.get("subfolder", ""))
    if not (found / EXPERIMENT_FILE).is_file():
        raise FileNotFoundError(
            f"{found} holds no config.json, so it is neither an autoencoder of diffusers nor a run"
        )
    return _on(mesh, load_folder(found, loading))


def load_single_file(
    class_name: str,
    path: str | os.PathLike[str],
    config: Any = None,
    *,
    mesh: Mesh | None = None,
    slice_size: int | None = None,
    tiling: Tiling | None = None,
    **compute: Any,
) -> AnyAutoencoder:
    """The autoencoder in one file, in the layout of its original release.

    Args:
        class_name: Key of `FAMILIES`.
        path: The file.
        config: Options, or where they are; None concludes them from the entries, as far as they
            tell.
        mesh: See `load_autoencoder`, as for all that follow.
        slice_size: See there.
        tiling: See there.
        **compute: `dtype`, `unroll` and `remat`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The class has no such files, or options and entries do not fit together.
    """
    load = FAMILIES[class_name].load_single_file
    if load is None:
        raise ValueError(f"there are no single files of {class_name}")
    loading = autoencoders.Loading(Compute(**compute), slice_size, tiling, mesh)
    return _on(mesh, load(path, config, loading))


def save_autoencoder(
    folder: str | os.PathLike[str], autoencoder: AnyAutoencoder, *, style: str | None = None
) -> None:
    """Writes a folder that diffusers reads; see `weights.families.save_folder`.

    Args:
        folder: Made if need be.
        autoencoder: Of any class in `FAMILIES`.
        style: Of a RAE alone, see `weights.autoencoders.to_diffusers`.

    Raises:
        ValueError: An unknown style, or diffusers cannot express the autoencoder.
    """
    if style is None:
        save_folder(folder, autoencoder)
        return
    if style not in get_args(Style):
        raise ValueError(f"style must be one of {get_args(Style)}, got {style!r}")
    if not isinstance(autoencoder, AutoencoderRAE):
        raise ValueError(f"style is of the encoders of a RAE, got {type(autoencoder).__name__}")
    save_folder(folder, autoencoder, style=style)


def is_run(folder: AnyPath) -> bool:
    """Whether it is a work folder, and not one of another library with a `config.json` too."""
    path = folder / EXPERIMENT_FILE
    return path.is_file() and "kind" in readers.read_json(path)


def _require_known(source: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    unknown = sorted(source.keys() - set(known))
    if unknown:
        takes = ", ".join(known) or "nothing more"
        raise ValueError(f"{what} takes {takes}; got {', '.join(unknown)}")


def _trained(
    folder: AnyPath,
    loading: autoencoders.Loading,
    *,
    weights: str = "ema",
    statistics: str | os.PathLike[str] = "",
) -> AutoencoderRAE:
    run = parse(Stage1Config, build.require_kind(str(folder), build.STAGE1))
    settings = dataclasses.replace(
        run.autoencoder, checkpoint=str(folder), statistics=str(statistics)
    )
    autoencoder = build.pretrained_autoencoder(settings, loading.compute, weights=weights)
    assert isinstance(autoencoder, AutoencoderRAE)  # for the type checker: stage 1 trains no other
    autoencoder.options = dataclasses.replace(autoencoder.options, slice_size=loading.slice_size)
    return autoencoder


def _on(mesh: Mesh | None, autoencoder: A) -> A:
    """The autoencoder with all its arrays on the mesh, those that no file holds too."""
    if mesh is not None:
        state = nnx.state(autoencoder)
        nnx.update(autoencoder, jax.device_put(state, tree_shardings(state, mesh)))
    return autoencoder
