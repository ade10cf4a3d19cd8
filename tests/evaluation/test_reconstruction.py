import numpy as np
import pytest

from rae_jax.evaluation.reconstruction import psnr
from rae_jax.evaluation.structural_similarity import ssim
from tests.comparison import load_case, nchw_to_nhwc


def pairs():
    case = load_case("metrics")
    reference, other, noisy = (
        nchw_to_nhwc(case.input(name)) for name in ("reference", "other", "noisy")
    )
    blend = ((7 * reference.astype(np.int64) + noisy) // 8).astype(np.uint8)
    return case, reference, {"other": other, "blend": blend, "identical": reference}


@pytest.mark.parametrize("name", ["other", "blend", "identical"])
def test_psnr_matches_upstream(name):
    case, reference, images = pairs()
    values = psnr(images[name], reference)
    case.assert_close(f"psnr_{name}_per_image", values)
    case.assert_close(f"psnr_{name}", values.mean())
    np.testing.assert_allclose(psnr(reference, images[name]), values)


def test_psnr_of_a_constant_difference():
    images = np.full((1, 2, 2, 3), 100, np.uint8)
    assert psnr(images + 51, images)[0] == pytest.approx(-20 * np.log10(0.2))
    assert psnr(images - 51, images)[0] == pytest.approx(-20 * np.log10(0.2))


@pytest.mark.parametrize("name", ["other", "blend", "identical"])
def test_ssim_matches_upstream(name):
    case, reference, images = pairs()
    values = ssim(images[name], reference)
    case.assert_close(f"ssim_{name}_per_image", values)
    case.assert_close(f"ssim_{name}", values.mean())
    np.testing.assert_allclose(ssim(reference, images[name]), values)


def test_ssim_of_constant_images():
    dark, light = np.full((1, 16, 16, 1), 51, np.uint8), np.full((1, 16, 16, 1), 102, np.uint8)
    assert ssim(dark, light)[0] == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.04 + 0.16 + 1e-4))
