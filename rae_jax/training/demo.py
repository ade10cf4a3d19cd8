"""Both stages, samples and scores on the built-in digits, one after the other."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from rae_jax.checkpointing.experiment import open_workdir
from rae_jax.configuration.schema import DemoConfig, SamplingConfig, as_dict
from rae_jax.data.sources.digits import Digits
from rae_jax.evaluation.digits import DigitJudge
from rae_jax.evaluation.reconstruction import psnr
from rae_jax.files import WORK_FOLDER, local_path, replacing
from rae_jax.monitoring.curves import draw_panels, read_metrics
from rae_jax.monitoring.image_grids import grid, save_png
from rae_jax.monitoring.writers import METRICS_FILE
from rae_jax.sampling.reconstruct import Reconstructor
from rae_jax.sampling.samples import NPZ, PICTURE, make_samples
from rae_jax.training import latent_jobs, stage1, stage2
from rae_jax.training.run import MAY_CHANGE

T = TypeVar("T")

_SHOWN = 12
_SCORES = "metrics.json"


def run(config: DemoConfig, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Runs what is not yet done of the demo, and prints the scores.

    Writes `reconstructions.png` (test digits over their reconstructions), `samples.png` (a row
    per class), `samples.npz`, `guided/`, `losses.png`, `metrics.json`, and the folders of the
    stages with their checkpoints.

    Args:
        config: All stages; their seeds and the paths between them are set here.
        workdir: Folder of everything.

    Returns:
        What `metrics.json` holds.
    """
    folder = local_path(workdir, WORK_FOLDER).absolute()
    for name in ("stage1", "stage2"):
        if "jsonl" not in getattr(config, name).loop.writers:
            raise ValueError(f"{name}.loop.writers must include 'jsonl', which losses.png is from")
    open_workdir(
        folder,
        "demo",
        as_dict(config),
        may_change=[f"{stage}.{name}" for stage in ("stage1", "stage2") for name in MAY_CHANGE],
        results=["*/checkpoints/*"],
        defaults=as_dict(DemoConfig()),
    )
    path = folder / _SCORES
    if path.exists():
        print(f"the demo in {folder} is finished; use another --workdir to run it again")
        return _report(json.loads(path.read_text()), folder)
    seconds: dict[str, float] = {}
    config = _connected(config, folder)

    def timed(name: str, job: Callable[[], T]) -> T:
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        result = job()
        seconds[name] = round(time.perf_counter() - start, 1)
        return result

    timed("stage 1", lambda: stage1.train(config.stage1, folder / "stage1"))
    timed(
        "latent statistics",
        lambda: latent_jobs.compute_statistics(config.statistics, folder / "statistics"),
    )
    timed("stage 2", lambda: stage2.train(config.stage2, folder / "stage2"))
    timed("samples", lambda: make_samples(config.sampling, folder / "unguided"))
    timed("guided samples", lambda: make_samples(config.guided, folder / "guided"))
    scores = timed("scores", lambda: _scores(config, folder))
    _pictures(folder)
    scores["seconds_of_this_call"] = seconds
    # Last, because it marks the demo as finished.
    with replacing(path) as partial:
        partial.write_text(json.dumps(scores, indent=2) + "\n")
    return _report(scores, folder)


def _connected(config: DemoConfig, folder: pathlib.Path) -> DemoConfig:
    """The stages with the demo's seed, each finding the folders of those before it."""
    replace = dataclasses.replace
    autoencoder = replace(
        config.stage2.autoencoder,
        checkpoint=str(folder / "stage1"),
        statistics=str(folder / "statistics" / latent_jobs.STATISTICS_FILE),
    )

    def sampling(section: SamplingConfig) -> SamplingConfig:
        return replace(section, seed=config.seed, checkpoint=str(folder / "stage2"))

    return replace(
        config,
        stage1=replace(config.stage1, seed=config.seed),
        stage2=replace(config.stage2, seed=config.seed, autoencoder=autoencoder),
        sampling=sampling(config.sampling),
        guided=sampling(config.guided),
    )


def _scores(config: DemoConfig, folder: pathlib.Path) -> dict[str, Any]:
    size = config.stage1.data.image_size
    (train, train_labels), (test, test_labels) = (_all(Digits(s, image_size=size)) for s in _SPLITS)
    pictures = Reconstructor(str(folder / "stage1"))(test)
    shown = np.concatenate([test[:_SHOWN], pictures[:_SHOWN]])
    save_png(folder / "reconstructions.png", grid(shown, columns=_SHOWN))
    judge = DigitJudge(train, train_labels, test, test_labels)
    scores: dict[str, Any] = {
        "seed": config.seed,
        "classifier": "scikit-learn SVC (RBF, C=10) on 8x8 grey levels of real training digits",
        "classifier_accuracy_on_real_test_digits": judge.classifier_accuracy,
        "reconstruction_psnr_on_test_digits": float(psnr(pictures, test).mean()),
    }
    for name in ("unguided", "guided"):
        with np.load(folder / name / NPZ) as samples:
            result = judge.score(samples["arr_0"], samples["arr_1"])
        scores[name] = dataclasses.asdict(result)
    scores["guided"]["guidance_scale"] = config.guided.guidance.scale
    return scores


_SPLITS = ("train", "test")


def _all(source: Digits) -> tuple[np.ndarray, np.ndarray]:
    records = [source[index] for index in range(len(source))]
    labels = np.stack([record["label"] for record in records])
    return np.stack([record["image"] for record in records]), labels


def _pictures(folder: pathlib.Path) -> None:
    for name in (NPZ, PICTURE):
        # Links would not survive being copied to another machine.
        with replacing(folder / name) as partial:
            partial.write_bytes((folder / "unguided" / name).read_bytes())
    curves = {}
    for stage in ("stage1", "stage2"):
        metrics = read_metrics(folder / stage / METRICS_FILE)
        names = ("loss", "gradient_norm", "learning_rate")
        # A stage shorter than its interval of logging has no points.
        curves |= {f"{stage} {name}": metrics[name] for name in names if name in metrics}
    if curves:
        draw_panels(curves, folder / "losses.png")


def _report(scores: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    unguided, guided = scores["unguided"], scores["guided"]
    accuracy = scores["classifier_accuracy_on_real_test_digits"]
    psnr_db = scores["reconstruction_psnr_on_test_digits"]
    rows = [
        ("reconstruction PSNR, test digits", f"{psnr_db:.2f} dB"),
        ("recognised as their label", f"{unguided['recognised']:.1%}"),
        (f"  guided, scale {guided['guidance_scale']}", f"{guided['recognised']:.1%}"),
        ("  real test digits", f"{accuracy:.1%}"),
        ("Fréchet distance samples - test", f"{unguided['frechet_samples_test']:.4f}"),
        ("  real train - test", f"{unguided['frechet_train_test']:.4f}"),
        ("  sampling noise", f"{unguided['frechet_noise']:.4f}"),
        ("  ratio", f"{unguided['frechet_ratio']:.2f}"),
        ("spread within class, of real", f"{unguided['spread']:.1%}"),
        ("near copies of training digits", f"{unguided['copies']:.1%}"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    print(f"pictures, samples and checkpoints are in {folder}")
    return scores
