r"""Measures the speed of parts of this package, beside that of others.

python tools/benchmark.py encode denoise --rounds=5 --output=runs/benchmark.json

Parts: encode, decode, denoise, train-stage1, train-stage2, sample, evaluate (models of published
sizes with made-up weights), data (the input pipeline), compile; --all takes them all. Peers, each
where it has the part: transformers, diffusers, torch_fidelity, pytorch (installed packages), and
rae, which needs --peer_path, a checkout of bytetriper/RAE. Sides take turns; medians are compared.
"""

import pathlib
import shlex
import sys

from absl import flags as absl_flags

from rae_jax.configuration import flags
from rae_jax.configuration.section import nearest

_ALL = absl_flags.DEFINE_bool("all", False, "Measure every part.")
_PRESET = absl_flags.DEFINE_string("preset", "cpu", "Sizes and batches: cpu, gpu or tiny.")
_PEER = absl_flags.DEFINE_list("peer", [], "Names of peers, or Python files of others.")
_PEER_PATH = absl_flags.DEFINE_string("peer_path", "", "Checkout that the peer rae is taken from.")
absl_flags.DEFINE_alias("peer-path", "peer_path")
_DTYPE = absl_flags.DEFINE_string("dtype", "", "float32 or bfloat16; the preset's without.")
_BATCH_SIZE = absl_flags.DEFINE_integer("batch_size", 0, "Images at a time; 0: the preset's.")
_POINTS = absl_flags.DEFINE_integer("points", 0, "Points in time of a sample; 0: the preset's.")
_ROUNDS = absl_flags.DEFINE_integer("rounds", 3, "Measurements of every side.")
_SECONDS = absl_flags.DEFINE_integer(
    "seconds", 0, "After which a part begins no further round; 0: no limit."
)
_THREADS = absl_flags.DEFINE_integer("threads", 0, "Processor threads; 0: all.")
_COMPILED = absl_flags.DEFINE_bool("compiled", False, "Compile the peers too (torch.compile).")
_PROFILE = absl_flags.DEFINE_string("profile", "", "Folder for profiles; none without.")
_FOLDER = absl_flags.DEFINE_string("folder", "", "Images of the part data; made up without.")
_IMAGES = absl_flags.DEFINE_integer("images", 256, "Images of the part data.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "JSON file to write; none without.")
_DOCUMENT = absl_flags.DEFINE_list("document", [], "Documents whose tables to replace.")

PEERS = pathlib.Path("tests", "benchmarking", "peers")


def _peer(name: str) -> str:
    """The file of a peer by its name, or as it is given."""
    if name.endswith(".py"):
        return name
    legal = {file.stem for file in PEERS.glob("*.py")} - {"__init__", "torch_side"}
    if not legal:
        raise ValueError(f"peers are in {PEERS}, which is not here; go where the repository is")
    if name not in legal:
        raise ValueError(f"unknown peer {name!r}: {nearest(name, legal)}")
    return str(PEERS / f"{name}.py")


def run(words: list[str]) -> None:
    """Measures the parts that the command line names."""
    from rae_jax.benchmarking import benchmark, report
    from rae_jax.benchmarking.presets import PARTS

    request = benchmark.Request(
        parts=PARTS if _ALL.value else tuple(words),
        preset=_PRESET.value,
        peers=tuple(map(_peer, _PEER.value)),
        peer_path=_PEER_PATH.value,
        dtype=_DTYPE.value,
        batch_size=_BATCH_SIZE.value,
        points=_POINTS.value,
        rounds=_ROUNDS.value,
        seconds=_SECONDS.value,
        threads=_THREADS.value,
        compiled=_COMPILED.value,
        profile=_PROFILE.value,
        folder=_FOLDER.value,
        images=_IMAGES.value,
    )
    command = shlex.join(["python", *sys.argv])
    tables: dict[str, list[report.Row]] = {}
    failed = []
    for part, outcome in benchmark.measure(request):
        if isinstance(outcome, Exception):
            failed.append(f"{part}: {outcome}" if len(request.parts) > 1 else f"{outcome}")
            continue
        for name, rows in outcome.items():
            print(report.table(rows), flush=True)
            tables.setdefault(name, []).extend(rows)
        if _OUTPUT.value:
            report.write(_OUTPUT.value, command, tables)
        for document in _DOCUMENT.value:
            report.update(document, command, tables)
    if len(request.parts) > 1:
        print("\n\n".join(report.table(rows) for rows in tables.values()))
    if failed:
        raise ValueError("; ".join(failed))


if __name__ == "__main__":
    flags.launch(run, takes_words=True)
