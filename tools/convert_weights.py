r"""Turns published PyTorch weights into what the tools here work with, strictly and bit for bit.

python tools/convert_weights.py --kind=decoder --source=model.pt --output=runs/decoder \
    --model=vit_xl --encoder=facebook/dinov2-with-registers-base --verify

Kinds: decoder (model.pt of the RAE release), dit_dh and lightning_dit (stage2_model.pt) become work
folders; statistics (stat.pt) becomes an npz; encoder (a folder of transformers) and autoencoder
(one of diffusers), which can be used as they are, become folders of one safetensors file. Training
checkpoints are read too: of the averaged and the last weights, both are taken. Every entry that is
missing, surplus, misshapen or not finite is listed, and nothing is written. See docs/porting.md.
"""

from absl import flags as absl_flags

from rae_jax.configuration import flags

_KIND = absl_flags.DEFINE_string(
    "kind", "", "decoder, dit_dh, lightning_dit, statistics, encoder, autoencoder."
)
_SOURCE = absl_flags.DEFINE_string("source", "", "Published file, or folder of an encoder.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "New folder; for statistics a new npz.")
_CONFIG = flags.define_config(required=False)
_MODEL = absl_flags.DEFINE_string(
    "model", "", "Published sizes, in place of a config: vit_xl, dit_dh_xl, lightning_dit_xl, ..."
)
_ENCODER = absl_flags.DEFINE_string("encoder", "", "Encoder of a decoder or of statistics.")
_AUTOENCODER = absl_flags.DEFINE_string(
    "autoencoder", "", "Autoencoder of a denoiser: work folder of a decoder, or one of diffusers."
)
_STATISTICS = absl_flags.DEFINE_string("statistics", "", "Latent statistics of a denoiser (npz).")
_WEIGHTS = absl_flags.DEFINE_string(
    "weights", "", "Of a training checkpoint only these: ema, raw, or a dotted path in it."
)
_DRY_RUN = absl_flags.DEFINE_bool("dry_run", False, "Show what goes where; write nothing.")
absl_flags.DEFINE_alias("dry-run", "dry_run")
_VERIFY = absl_flags.DEFINE_bool("verify", False, "Export again and compare bit for bit.")


def run() -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.porting import importing
    from rae_jax.porting.plans import Request

    request = Request(
        kind=_KIND.value,
        source=_SOURCE.value,
        output=_OUTPUT.value,
        config=_CONFIG.value,
        model=_MODEL.value,
        encoder=_ENCODER.value,
        autoencoder=_AUTOENCODER.value,
        statistics=_STATISTICS.value,
        weights=_WEIGHTS.value,
    )
    importing.convert_file(request, dry_run=_DRY_RUN.value, verify=_VERIFY.value, say=print)


if __name__ == "__main__":
    flags.launch(run)
