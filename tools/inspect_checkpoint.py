"""Shows what is in a file of weights, a checkpoint or a work folder, as a table.

python tools/inspect_checkpoint.py --source=model.pt --statistics

Reads safetensors, sharded sets, files of torch.save (without PyTorch, and without running anything
in them), npz, checkpoints of this project and the work folders of its runs.
"""

from absl import flags as absl_flags

from rae_jax.configuration import flags

_SOURCE = absl_flags.DEFINE_string("source", "", "File or folder.")
_STATISTICS = absl_flags.DEFINE_bool(
    "statistics", False, "Show least, largest and mean value too, which reads everything."
)


def run() -> None:
    """Runs the job; JAX is imported only once the flags are known to be right."""
    from rae_jax.porting import inspection

    inspection.inspect(_SOURCE.value, statistics=_STATISTICS.value, say=print)


if __name__ == "__main__":
    flags.launch(run)
