r"""Measures the speed of a part of this package, beside that of others.

python tools/benchmark.py data --images=512 --output=runs/benchmark/data.json

Parts: data (the input pipeline; --folder takes images of yours, and
--peer=tests/data/torch_loader.py compares with a DataLoader of PyTorch). Prints a table; the JSON
file holds the machine and the versions too.
"""

import shlex
import sys

from absl import flags as absl_flags

from rae_jax.configuration import flags
from rae_jax.configuration.section import nearest

_OUTPUT = absl_flags.DEFINE_string("output", "", "JSON file to write; none without.")
_FOLDER = absl_flags.DEFINE_string("folder", "", "Image folder; without, photographs are made up.")
_PEER = absl_flags.DEFINE_string("peer", "", "Python file of another loader to compare with.")
_IMAGES = absl_flags.DEFINE_integer("images", 512, "Images per measurement.")
_ROUNDS = absl_flags.DEFINE_integer("rounds", 3, "Measurements, of which the best counts.")
_THREADS = absl_flags.DEFINE_integer("threads", 2, "Threads, or workers of the peer.")
_BATCH_SIZE = absl_flags.DEFINE_integer("batch_size", 32, "Images per batch.")

PARTS = ("data",)


def run(words: list[str]) -> None:
    """Runs the parts that the command line names."""
    if not words:
        raise ValueError(f"name what to measure: {', '.join(PARTS)}")
    for word in words:
        if word not in PARTS:
            raise ValueError(f"unknown part {word!r}: {nearest(word, PARTS)}")
    from rae_jax.benchmarking import data, report

    settings = data.Settings(
        folder=_FOLDER.value,
        peer=_PEER.value,
        images=_IMAGES.value,
        rounds=_ROUNDS.value,
        threads=_THREADS.value,
        batch_size=_BATCH_SIZE.value,
    )
    rows = data.measure(settings)
    print(report.table(rows))
    if _OUTPUT.value:
        command = shlex.join(["python", *sys.argv])
        report.write(_OUTPUT.value, "data", command, rows, data.USED)


if __name__ == "__main__":
    flags.launch(run, takes_words=True)
