"""Statistics of the built-in training digits in the features of the bundled encoder: seconds."""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.reference_statistics()
    config.images.data = defaults.digits_data()
    config.extractor = defaults.digits_extractor()
    return config
