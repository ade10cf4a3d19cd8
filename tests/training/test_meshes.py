"""A step on any mesh is that on one device: what is cut, and how, changes rounding alone."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.diffusion.losses import FlowMatching
from rae_jax.diffusion.time_sampling import TimeDistribution
from rae_jax.layers import stack
from rae_jax.layers.adaln_block import BlockStyle
from rae_jax.layers.functional import Buffer, freeze, split
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.denoisers.base import TransformerDenoiser
from rae_jax.models.denoisers.dit_dh import DiTDH, DiTDHConfig
from rae_jax.models.denoisers.lightning_dit import LightningDiT, LightningDiTConfig
from rae_jax.models.encoders.mae import MAEEncoder
from rae_jax.reconstruction import objective
from rae_jax.reconstruction.objective import DecoderLoss, PhaseStarts
from rae_jax.sharding.mesh import batch_sharding, make_mesh
from rae_jax.sharding.processes import global_batch, place
from rae_jax.sharding.rules import tree_shardings
from rae_jax.training import loop
from rae_jax.training.optimizers import adamw
from rae_jax.training.stage2_step import Stage2Step
from rae_jax.training.state import AdversarialState, DiscriminatorState, TrainState
from rae_jax.typing import Tree
from tests.comparison import nchw_to_nhwc
from tests.golden import recipe
from tests.models.compiled import filled
from tests.training import test_adversarial_step as adversarial
from tests.training.test_stage1_step import ENCODER, MEAN, STD

MESHES = {"1x8x1": (1, 8, 1), "8x1x1": (8, 1, 1), "2x4x1": (2, 4, 1), "2x2x2": (2, 2, 2)}
BATCH, STEPS, CLASSES = 16, 3, 5
SHAPE = (2, 2, 16)


@dataclasses.dataclass(frozen=True)
class Case:
    """A training step on its own."""

    state: Any
    step: Callable[..., Any]
    frozen: Tree


def batch_of(number: int) -> Mapping[str, np.ndarray]:
    pixels = 255 * recipe.images(f"meshes {number}", (BATCH, 3, 16, 16))
    images = nchw_to_nhwc(pixels).astype(np.uint8)
    return {"images": images, "labels": np.arange(BATCH, dtype=np.int32) % CLASSES}


def optimizer():
    # The large epsilon keeps Adam from blowing up rounding where gradients vanish, as those of the
    # keys' bias do.
    return adamw(1e-3, beta_1=0.5, beta_2=0.9, weight_decay=0.01, epsilon=1e-2, clip_norm=1.0)


def stage2(make: Callable[[], TransformerDenoiser], accumulation: int) -> Case:
    autoencoder = AutoencoderRAE(
        filled(lambda: MAEEncoder(ENCODER, dtype=jnp.float32, rngs=nnx.Rngs(0))),
        None,
        encoder_input_size=16,
        image_mean=MEAN,
        image_std=STD,
    )
    encoder, frozen = split(freeze(autoencoder))
    denoiser, params, buffers = split(filled(make), nnx.Param, Buffer)
    # Smaller weights than that keep rounding from growing through the modulations.
    params = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    step = Stage2Step(
        denoiser,
        encoder,
        FlowMatching(times=TimeDistribution("uniform", shift=1.7)),
        optimizer(),
        lambda updates: jnp.float32(1e-3),
        ema_decay=0.9,
        label_dropout=0.5,
        accumulation=accumulation,
    )
    return Case(TrainState.create(params, buffers, optimizer(), jax.random.key(5)), step, frozen)


def dit_dh() -> DiTDH:
    """16 heads of 72 channels, as published, and one feed-forward layer of odd width, 341."""
    config = DiTDHConfig(
        latent_shape=SHAPE,
        num_classes=CLASSES,
        backbone_hidden_size=1152,
        backbone_depth=1,
        backbone_num_heads=16,
        head_hidden_size=128,
        head_depth=1,
        head_num_heads=2,
    )
    return DiTDH(config, dtype=jnp.float32, rngs=nnx.Rngs(0))


def lightning_dit(depth: int = 2) -> LightningDiT:
    config = LightningDiTConfig(
        latent_shape=SHAPE,
        num_classes=CLASSES,
        hidden_size=32,
        depth=depth,
        num_heads=4,
        style=BlockStyle(use_qk_norm=True),
    )
    return LightningDiT(config, dtype=jnp.float32, rngs=nnx.Rngs(0))


def stage1(accumulation: int, *, gan: bool) -> Case:
    networks, rule = adversarial.Networks(), optimizer()
    state = TrainState.create(
        networks.state.params, networks.state.buffers, rule, networks.state.key
    )
    step = dataclasses.replace(networks.step(), optimizer=rule, accumulation=accumulation)
    if not gan:
        step = dataclasses.replace(step, loss=DecoderLoss(l1=1.0), lpips=None, adversary=None)
        return Case(state, step, {"encoder": networks.frozen["encoder"]})
    judge = DiscriminatorState.create(networks.heads, networks.vectors, rule)
    step = dataclasses.replace(
        step,
        # Every term is on from the second step on.
        phases=PhaseStarts(perceptual=0, discriminator=0, adversarial=1),
        adversary=dataclasses.replace(networks.step().adversary, optimizer=rule),
    )
    return Case(AdversarialState.of(state, judge), step, networks.frozen)


CASES: Mapping[str, Callable[[], Case]] = {
    "l1": lambda: stage1(1, gan=False),
    "gan": lambda: stage1(1, gan=True),
    "gan in parts": lambda: stage1(2, gan=True),
    "dit_dh": lambda: stage2(dit_dh, 1),
    "small lightning_dit": lambda: stage2(functools.partial(lightning_dit, 1), 1),
    "lightning_dit": lambda: stage2(lightning_dit, 1),
    "lightning_dit in parts": lambda: stage2(lightning_dit, 2),
}


@functools.cache
def case_of(name: str) -> Case:
    return CASES[name]()


def trained(case: Case, sizes: Sequence[int], num_devices: int = 8) -> tuple[Any, list[Any]]:
    """State and metrics of the first steps on a mesh, every array cut that can be."""
    mesh = make_mesh(*sizes, devices=jax.devices()[:num_devices])
    state = place(case.state, tree_shardings(case.state, mesh, min_size=1))
    frozen = place(case.frozen, tree_shardings(case.frozen, mesh, min_size=1))
    step = loop.jitted(case.step, state, mesh)
    metrics = []
    with jax.set_mesh(mesh):
        # The step uses up its state, which may share memory with the case's.
        state = jax.tree.map(jnp.copy, state)
        for number in range(STEPS):
            state, values = step(state, frozen, global_batch(mesh, batch_of(number)))
            metrics.append(jax.device_get(values))
    return jax.device_get(state), metrics


@functools.cache
def on_one_device(name: str) -> tuple[Any, list[Any]]:
    return trained(case_of(name), (1, 1, 1), num_devices=1)


def largest_difference(tree: Tree, other: Tree) -> float:
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), tree, other)
    return float(max(jax.tree.leaves(differences)))


def assert_as_on_one_device(name: str, mesh: str) -> None:
    state, metrics = trained(case_of(name), MESHES[mesh])
    expected, values = on_one_device(name)
    for ours, theirs in zip(metrics, values, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    begun = jax.device_get(case_of(name).state)
    for trees in ("params", "ema"):
        ours, theirs = getattr(state, trees), getattr(expected, trees)
        assert largest_difference(ours, theirs) < 1e-5
    assert largest_difference(expected.params, begun.params) > 1e-4
    if hasattr(state, "discriminator"):
        assert values[-1]["adaptive_weight"] > 0
        judge, theirs = state.discriminator, expected.discriminator
        assert largest_difference(judge.params, theirs.params) < 1e-5
        assert largest_difference(judge.vectors, theirs.vectors) < 1e-5
        assert largest_difference(theirs.params, begun.discriminator.params) > 1e-4


@pytest.fixture(autouse=True)
def without_levels(monkeypatch):
    # The discriminator sees images rounded to 256 levels. A value between two of them may go
    # either way, by an error of its last bit, and is then as far off as a level.
    clipped = functools.partial(jnp.clip, min=-1.0, max=1.0)
    monkeypatch.setattr(objective.adversarial, "discretized", clipped)


@pytest.mark.long
@pytest.mark.parametrize("name, mesh", [("l1", "1x8x1"), ("small lightning_dit", "2x2x2")])
def test_a_step_on_a_mesh_is_that_on_one_device(name, mesh):
    assert_as_on_one_device(name, mesh)


COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def moved_activations(case: Case, sizes: Sequence[int]) -> list[str]:
    """Arrays of three axes or more, the first of them the whole batch, that devices exchange."""
    mesh = make_mesh(*sizes)
    arguments = [case.state, case.frozen, dict(batch_of(0))]
    shardings = [tree_shardings(tree, mesh, min_size=1) for tree in arguments[:2]]
    placed = [
        jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            sharding,
        )
        for tree, sharding in zip(arguments[:2], shardings, strict=True)
    ]
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=batch_sharding(mesh)),
        arguments[2],
    )
    with jax.set_mesh(mesh):
        program = loop.jitted(case.step, placed[0], mesh).lower(*placed, batch).compile()
    found = COLLECTIVE.findall(program.as_text())
    assert found
    return [shape for text in found for shape in re.findall(rf"\[{BATCH},\d+,\d[\d,]*\]", text)]


def test_layers_move_parameters_and_not_activations():
    assert moved_activations(case_of("l1"), MESHES["1x8x1"]) == []


@pytest.mark.slow
def test_activations_would_be_moved_if_blocks_did_not_keep_them(monkeypatch):
    monkeypatch.setattr(stack, "constrain_batch", lambda tokens: tokens)
    assert moved_activations(CASES["l1"](), MESHES["1x8x1"])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("small")])
def test_every_step_on_every_mesh_is_that_on_one_device(name, mesh):
    assert_as_on_one_device(name, mesh)
