"""Statistics of the ImageNet training images, ADM's middle crops of 256 pixels, for gFID.

Set `images.data.path` to a folder with `train/<class>/*`. The features of 1,281,167 images would
take 10 GB, so only their moments are kept.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.reference_statistics()
    config.images.data.image_size = 256
    config.images.data.crop = "center"
    config.extractor.weights = "pt_inception-2015-12-05-6726825d.pth"
    config.purpose = "generation"
    config.keep_features = False
    return config
