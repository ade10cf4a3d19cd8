import jax
import numpy as np
import pytest

from rae_jax.evaluation.reconstruction import make_measures, psnr
from tests.comparison import load_case, nchw_to_nhwc


@pytest.fixture(scope="module")
def ssim():
    return make_measures(("ssim",), rows=3, devices=jax.devices()[:1])["ssim"]


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
def test_ssim_matches_upstream(name, ssim):
    case, reference, images = pairs()
    values = ssim(images[name], reference)
    case.assert_close(f"ssim_{name}_per_image", values)
    case.assert_close(f"ssim_{name}", values.mean())
    np.testing.assert_allclose(ssim(reference, images[name]), values, rtol=1e-12)
    assert values.dtype == np.float64


def test_scores_of_a_pair_are_the_same_bits_in_any_company(ssim):
    _, reference, images = pairs()
    alone = np.concatenate([ssim(images["blend"][n:][:1], reference[n:][:1]) for n in range(3)])
    on_two = make_measures(("ssim",), rows=3, devices=jax.devices()[:2])["ssim"]
    for measure in (ssim, on_two):
        np.testing.assert_array_equal(measure(images["blend"], reference), alone)


def test_images_smaller_than_the_window_are_refused(ssim):
    with pytest.raises(ValueError, match="6 pixels a side at least, got 8 x 5; leave it out"):
        ssim(*np.zeros((2, 1, 5, 8, 3), np.uint8))


def test_ssim_of_constant_images(ssim):
    dark, light = np.full((1, 16, 16, 1), 51, np.uint8), np.full((1, 16, 16, 1), 102, np.uint8)
    assert ssim(dark, light)[0] == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.04 + 0.16 + 1e-4))
