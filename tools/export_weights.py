r"""Writes models of this project as the files that PyTorch code reads.

python tools/export_weights.py --kind=decoder --source=runs/stage1 --output=model.pt --verify

Kinds: decoder, dit_dh and lightning_dit from work folders, statistics from an npz, encoder from
any folder or name that the configs take, autoencoder (a folder of diffusers) from the work folder
of a decoder, release (a folder with all of these) from that of a stage-1 run. The way back is
tools/convert_weights.py; see docs/porting.md.
"""

from absl import flags as absl_flags

from rae_jax.configuration import flags

_KIND = absl_flags.DEFINE_string(
    "kind", "", "decoder, dit_dh, lightning_dit, statistics, encoder, autoencoder, release."
)
_SOURCE = absl_flags.DEFINE_string("source", "", "Work folder, npz, or name of an encoder.")
_OUTPUT = absl_flags.DEFINE_string(
    "output", "", "New file, .pt or .safetensors; for encoder, autoencoder, release a new folder."
)
_WEIGHTS = absl_flags.DEFINE_string("weights", "ema", "ema, raw, or both as a training checkpoint.")
_STATISTICS = absl_flags.DEFINE_string(
    "statistics", "", "Latent statistics (npz) to write into an autoencoder or a release."
)
_VERIFY = absl_flags.DEFINE_bool("verify", False, "Read the file back and compare bit for bit.")


def run() -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.porting import exporting

    exporting.export_file(
        _KIND.value,
        _SOURCE.value,
        _OUTPUT.value,
        weights=_WEIGHTS.value,
        statistics=_STATISTICS.value,
        verify=_VERIFY.value,
        say=print,
    )


if __name__ == "__main__":
    flags.launch(run)
