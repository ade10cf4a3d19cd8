"""Stage 1 beside the same training in PyTorch, whose networks are held to the RAE release's."""

import dataclasses

import jax
import numpy as np
import pytest

from rae_jax.configuration.parts import OptimizerConfig, ScheduleConfig
from rae_jax.configuration.schema import Stage1Config
from tests import pipeline
from tests.comparison import load_case
from tests.golden import recipe

pytestmark = pytest.mark.torch

STEPS = 5


@pytest.fixture(scope="module")
def module():
    from tests.training import torch_stage1

    return torch_stage1


# The networks in PyTorch against the release.


@pytest.fixture(scope="module")
def losses():
    return load_case("losses")


def tensors(module, case, *names):
    return module.to_torch({n: a for name in names for n, a in case.entries(name).items()})


def draws(module, case, name):
    return module.Draws(case.input(f"rand3_{name}"), case.input(f"rand7_{name}")[..., 0, 0])


def test_lpips_matches_upstream(module):
    case = load_case("lpips")
    entries = module.Entries(tensors(module, case, "vgg_entries", "lin_entries"))
    pairs = module.to_torch({n: case.input(f"{n}_square") for n in ("input", "target")})
    found = module.lpips(*pairs.values(), entries)
    case.assert_close("per_image", found[:, None, None, None])


def test_augmentation_matches_upstream(module):
    case = load_case("diffaug")
    for name, settings in case.config["modes"].items():
        pick, _, size = name.split("_")
        numbers = draws(module, case, size)
        if pick != "all":
            numbers = dataclasses.replace(numbers, choices=case.input(f"pick_{pick}"))
        images = module.to_torch({"images": case.input(f"images_{size}")})["images"]
        found = module.disguised(
            images, numbers, probability=settings["prob"], cutout=settings["cutout"]
        )
        case.assert_close(name, found)


def test_discriminator_matches_upstream(module, losses):
    """A power iteration before each classification in training, none in evaluation."""
    settings = losses.config["discriminator"]
    layout = settings["layout"]
    sizes = module.DINOConfig(
        hidden_size=layout["embed_dim"],
        depth=layout["depth"],
        num_heads=layout["num_heads"],
        patch_size=layout["patch_size"],
        mlp_ratio=layout["mlp_ratio"],
    )
    depths = tuple(settings["key_depths"])
    config = module.HeadConfig(key_depths=depths, kernel_size=settings["ks"])
    heads = module.Heads(sizes.hidden_size, config)
    heads.load_state_dict(tensors(module, losses, "heads_entries"))
    dino = module.Entries(tensors(module, losses, "dino_entries"))

    def logits(images):
        tokens = module.dino_tokens(images, dino, sizes)
        return heads([tokens[-1], *(tokens[depth] for depth in depths)]).detach()

    given = {"images": losses.input("images"), "made": losses.output("recon")}
    given |= {"fake": losses.input("fake_images")}
    given = {name: 2 * x - 1 for name, x in module.to_torch(given).items()}
    always = {"probability": 1.0, "cutout": 0.0}
    heads.train()
    logits(given["images"])
    heads.eval()
    disguised = module.disguised(given["made"], draws(module, losses, "generator"), **always)
    losses.assert_close("logits_fake", logits(disguised))
    heads.train()
    fake = module.discretized(given["fake"])
    losses.assert_close("disc_fakes", fake)
    for name, images in (("fake", fake), ("real", given["images"])):
        disguised = module.disguised(images, draws(module, losses, name), **always)
        losses.assert_close(f"disc_logits_{name}", logits(disguised))


# The whole training.


def shaken(state):
    """The state away from zeros, at which layer norms magnify rounding."""

    def moved(path, leaf):
        return leaf + 0.05 * recipe.uniform(jax.tree_util.keystr(path), leaf.shape)

    params = jax.tree_util.tree_map_with_path(moved, state.params)
    return dataclasses.replace(state, params=params, ema=params)


def all_terms():
    """LPIPS after 1 step, the discriminator after 2, its loss for the decoder after 3."""
    # The large epsilon keeps Adam from blowing up rounding where gradients vanish.
    optimizer = OptimizerConfig(learning_rate=5e-3, epsilon=1e-3, weight_decay=0.05, clip_norm=0.5)
    schedule = ScheduleConfig(warmup="3 steps", end="6 steps", final_learning_rate=1e-3)
    config = pipeline.smoke("stage1_gan", Stage1Config)
    gan = dataclasses.replace(
        config.gan,
        discriminator_start="2 steps",
        start="3 steps",
        augment_cutout=0.2,
        optimizer=dataclasses.replace(optimizer, clip_norm=0.0),
        schedule=schedule,
    )
    tiny = pipeline.stage1(STEPS)
    decoder = dataclasses.replace(tiny.autoencoder.decoder, patch_size=8)
    return dataclasses.replace(
        tiny,
        autoencoder=dataclasses.replace(tiny.autoencoder, decoder=decoder),
        # Encoder and discriminator resize them.
        data=dataclasses.replace(tiny.data, image_size=24, crop="center"),
        global_batch_size=4,
        lpips=dataclasses.replace(config.lpips, start="1 steps"),
        gan=gan,
        optimizer=optimizer,
        schedule=schedule,
        ema_decay=0.7,
    )


@pytest.fixture(scope="module")
def pair(module):
    return module.Pair.of(all_terms(), shaken)


@pytest.fixture(scope="module")
def history(pair):
    """Entries before the first step, and the metrics of all."""
    before = {name: ours for name, ours, _ in pair.compared()}
    return before, list(pair.run(STEPS))


def test_metrics_of_every_phase_are_pytorchs(history):
    """Measured: 6e-7 apart; a ReLU that rounding switches moves a gradient's norm by 1e-5 of it."""
    _, metrics = history
    for number, (ours, theirs) in enumerate(metrics):
        assert set(theirs) <= set(ours)
        assert ("perceptual" in theirs) == (number >= 1)
        assert ("discriminator_loss" in theirs) == (number >= 2)
        assert ("adaptive_weight" in theirs) == (number >= 3)
        for name, value in ours.items():
            expected = pytest.approx(theirs.get(name, 0.0), rel=5e-5, abs=1e-6)
            assert value == expected, (number, name)


def test_weights_after_two_steps_with_every_term_are_pytorchs(pair, history):
    """Measured: 7.5e-7 apart at most, where the learning rate is 5e-3."""
    before, _ = history
    changes = []
    for name, ours, theirs in pair.compared():
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6, err_msg=name)
        changes.append(np.abs(ours - before[name]).max())
    # Some biases are without effect, and only decay.
    assert np.median(changes) > 5e-3


@pytest.mark.timeout(1200)  # A minute and a half of two idle cores, all of it in the 50 steps.
def test_loss_curves_are_pytorchs(module):
    """Measured: 7e-7 apart at most."""
    ours, theirs = module.l1_curves()
    assert len(ours) == module.STEPS
    assert ours[-1] < 0.7 * ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
