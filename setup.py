"""Installs rae_jax; versions are the oldest that the test suite has run with."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent


def read_version() -> str:
    """Version named in the package, read without importing it."""
    text = (ROOT / "rae_jax" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("rae_jax/__init__.py does not name __version__")
    return match.group(1)


CORE = [
    "absl-py>=2.1",
    "array_record>=0.8.6",
    "diffrax>=0.7.2",
    "etils[epath]>=1.15",
    "flax>=0.12.8",
    "grain>=0.2.18",
    "huggingface_hub>=1.31",
    "importlib_resources>=6.0",  # tensorflow-datasets imports it without declaring it
    "jax>=0.10.0",
    "jaxtyping>=0.3.11",
    "matplotlib>=3.9",
    "ml_collections>=1.1.0",
    "ml_dtypes>=0.5",
    "msgpack>=1.1",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pillow>=11.0",
    "PyYAML>=6.0",
    "safetensors>=0.8.0",
    "scikit-learn>=1.5",
    "scipy>=1.14",
    "tensorboardX>=2.6.2",
    "tensorflow-datasets>=4.9.10",
    "tqdm>=4.66",
    "transformers>=5.0",
]

# Decoding and resizing to the same bytes in less than half the time.
FAST = ["numba>=0.61", "simplejpeg>=1.8"]

# Work folders in buckets, `gs://`.
GCS = ["fsspec>=2026.9", "gcsfs>=2026.9"]

TEST = [
    *FAST,
    *GCS,
    "basedpyright>=1.31",
    "beartype>=0.22",
    "build>=1.2",
    "codespell>=2.4",
    "filelock>=3.16",
    "hypothesis>=6.100",
    "import-linter>=2.5",
    "pre-commit>=4.0",
    "pytest>=9.0",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.6",
    "ruff>=0.15",
    "setuptools>=77",  # builds the wheel that the architecture test looks into
]

setup(
    name="rae_jax",
    version=read_version(),
    description="Representation Autoencoders and the latent diffusion transformers trained on them",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["rae_jax", "rae_jax.*"]),
    package_data={"rae_jax": ["assets/**/*"]},
    install_requires=CORE,
    extras_require={
        "test": TEST,
        "fast": FAST,
        "gcs": GCS,
        "torch": ["torch==2.13.0", "diffusers>=0.37", "torchmetrics>=1.9"],
        # Apart, because it brings torchvision, which fits one build of torch alone.
        "fidelity": ["torch-fidelity>=0.4"],
        "tpu": ["jax[tpu]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "wandb": ["wandb>=0.20"],
    },
)
