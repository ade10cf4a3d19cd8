"""Lightweight scores of the digits of `configs/smoke/sampling.py`: seconds. None of them is FID."""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.evaluate_generation()
    config.samples.path = "runs/samples"
    config.reference.data = defaults.digits_data()
    config.extractor = defaults.digits_extractor()
    config.metrics = ("fid", "precision_recall", "kid")
    config.kid_subsets = 20
    config.kid_subset_size = 100
    return config
