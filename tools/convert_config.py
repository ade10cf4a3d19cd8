r"""Turns a YAML file of the RAE release into a config file, and says what became of every key.

python tools/convert_config.py --source=DiTDH-XL_DINOv2-B.yaml --output=configs/mine.py

A file with stage_2 and training becomes a config of stage 2, one with training alone of stage 1,
one with stage_2 alone of sampling, one with stage_1 alone of reconstruction; --kind=sampling takes
the sampler and the guidance out of a file of training. Unknown keys are named.
"""

from absl import flags as absl_flags

from rae_jax.configuration import flags

_SOURCE = absl_flags.DEFINE_string("source", "", "YAML file of the RAE release.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "New config file (Python).")
_KIND = absl_flags.DEFINE_string("kind", "", "stage1, stage2, sampling or reconstruction.")


def run() -> None:
    """Runs the job."""
    for flag, value in (("source", _SOURCE.value), ("output", _OUTPUT.value)):
        if not value:
            raise ValueError(f"--{flag} is missing; name a file")
    from rae_jax.porting import original_configs

    converted = original_configs.convert_file(_SOURCE.value, _OUTPUT.value, _KIND.value)
    print("\n".join(converted.lines()))
    print(f"config: {_OUTPUT.value}")


if __name__ == "__main__":
    flags.launch(run)
