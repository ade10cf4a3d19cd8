"""PSNR, SSIM and rFID of the 50,000 ImageNet validation images, middle crops of 256 pixels.

Set `originals.data.path` to a folder with `val/<class>/*`, and `checkpoint` to the work folder of
an autoencoder, or `reconstructions` to images made elsewhere.
"""

from rae_jax.configuration import defaults


def get_config():
    config = defaults.evaluate_reconstruction()
    config.originals.data.split = "val"
    config.originals.data.image_size = 256
    config.originals.data.crop = "center"
    config.extractor.weights = "pt_inception-2015-12-05-6726825d.pth"
    return config
