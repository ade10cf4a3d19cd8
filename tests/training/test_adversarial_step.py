"""The whole stage-1 step on tiny networks: phases, parts of a batch, steps that are skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Buffer, Frozen, split
from rae_jax.models.autoencoders.rae import AutoencoderRAE
from rae_jax.models.auxiliary.dino_discriminator import (
    DINO,
    DINOConfig,
    DINODiscriminator,
    HeadConfig,
    SpectralVector,
)
from rae_jax.models.auxiliary.lpips import LPIPS
from rae_jax.models.auxiliary.vgg import VGG16
from rae_jax.models.decoders.vit_decoder import ViTDecoder
from rae_jax.models.encoders.mae import MAEEncoder
from rae_jax.ops.augment import augment
from rae_jax.ops.images import to_float, to_signed
from rae_jax.reconstruction.adaptive_weight import norm
from rae_jax.reconstruction.adversarial import (
    discretized,
    generator_loss,
    hinge_discriminator_loss,
)
from rae_jax.reconstruction.latent_noise import add_latent_noise
from rae_jax.reconstruction.losses import feature_loss, l1_loss
from rae_jax.reconstruction.objective import DecoderLoss, Phases, PhaseStarts
from rae_jax.training.optimizers import adamw
from rae_jax.training.run import skip_non_finite
from rae_jax.training.stage1_step import Adversary, Stage1Step, disguise_key
from rae_jax.training.state import AdversarialState, DiscriminatorState, TrainState
from tests.models.compiled import filled
from tests.training.test_stage1_step import DECODER, ENCODER, MEAN, STD, image_batch
from tests.training.transcribed import assert_trees_close

DINO_CONFIG = DINOConfig(hidden_size=8, depth=2, num_heads=2, patch_size=8, image_size=16)
STARTS = PhaseStarts(perceptual=1, discriminator=2, adversarial=3)
LOSS = DecoderLoss(l1=1.0, perceptual=0.5, features=0.25, adversarial=0.75)
TAU = 0.3
# The large epsilon keeps Adam from blowing up rounding where gradients vanish.
OPTIMIZER = adamw(1e-2, beta_1=0.5, beta_2=0.9, weight_decay=0.0, epsilon=1e-2)


class Networks:
    """Everything that the step works with, tiny."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        autoencoder = AutoencoderRAE(
            filled(lambda: MAEEncoder(ENCODER, dtype=jnp.float32, rngs=nnx.Rngs(0))),
            filled(lambda: ViTDecoder(DECODER, dtype=jnp.float32, rngs=nnx.Rngs(0))),
            encoder_input_size=16,
            image_mean=MEAN,
            image_std=STD,
        )
        self.definition, params, buffers, frozen = split(autoencoder, nnx.Param, Buffer, Frozen)
        network = VGG16(widths=(2, 2, 3, 3, 3), dtype=jnp.float32, rngs=rngs)
        self.lpips, frozen["lpips"] = split(LPIPS(network))
        backbone = DINO(DINO_CONFIG, dtype=jnp.float32, rngs=rngs)
        heads = HeadConfig(key_depths=(0,), kernel_size=3)
        judge = DINODiscriminator(backbone, heads, dtype=jnp.float32, rngs=rngs)
        parts = split(judge, nnx.Param, SpectralVector, Frozen)
        self.judge, self.heads, self.vectors, frozen["discriminator"] = parts
        self.frozen = frozen
        state = TrainState.create(params, buffers, OPTIMIZER, jax.random.key(5))
        self.state = AdversarialState.of(
            state, DiscriminatorState.create(self.heads, self.vectors, OPTIMIZER)
        )

    def step(self, **changes):
        adversary = Adversary(
            self.judge,
            OPTIMIZER,
            lambda updates: 0.1 * (1.0 + updates.astype(jnp.float32)),
            loss=hinge_discriminator_loss,
            augment_probability=0.5,
            augment_cutout=0.5,
        )
        return Stage1Step(
            self.definition,
            OPTIMIZER,
            lambda updates: 1.0 * updates.astype(jnp.float32),
            ema_decay=0.9,
            noise_tau=TAU,
            loss=LOSS,
            phases=STARTS,
            lpips=self.lpips,
            adversary=adversary,
            **changes,
        )


@pytest.fixture(scope="module")
def networks():
    return Networks()


@pytest.fixture(scope="module")
def compiled(networks):
    return jax.jit(skip_non_finite(networks.step()))


@pytest.fixture(scope="module")
def history(networks, compiled):
    """States before and after each of five steps, with their metrics."""
    states, metrics = [networks.state], []
    for number in range(5):
        state, values = compiled(states[-1], networks.frozen, image_batch(f"gan {number}"))
        states.append(state)
        metrics.append({name: float(value) for name, value in values.items()})
    return states, metrics


@pytest.mark.long
def test_phases_follow_one_another_without_another_compilation(history, compiled):
    states, metrics = history
    assert compiled._cache_size() == 1
    for number, values in enumerate(metrics):
        assert (values["perceptual"] != 0) == (number >= 1)
        for name in ("discriminator_loss", "logits_fake", "discriminator_gradient_norm"):
            assert (values[name] != 0) == (number >= 2), (number, name)
        for name in ("adversarial", "adaptive_weight"):
            assert (values[name] != 0) == (number >= 3), (number, name)
        assert values["features"] > 0
        before, after = states[number].discriminator, states[number + 1].discriminator
        assert int(after.updates) == max(number - 1, 0)
        if number < 2:
            assert_trees_close(after, before, 0)
        else:
            assert after.params["heads"]["logit"]["bias"] != pytest.approx(
                np.asarray(before.params["heads"]["logit"]["bias"]), abs=1e-5
            )


@pytest.mark.long
def test_rates_go_by_updates(history):
    _, metrics = history
    assert [values["learning_rate"] for values in metrics] == [0, 1, 2, 3, 4]
    rates = [values["discriminator_learning_rate"] for values in metrics]
    np.testing.assert_allclose(rates, [0, 0, 0.1, 0.2, 0.3], rtol=1e-6)


@pytest.mark.slow
def test_the_last_step_by_hand(networks, history):
    """All terms on, each gradient by automatic differentiation of its own loss."""
    states, metrics = history
    before, after, values = states[4], states[5], metrics[4]
    frozen, judge = networks.frozen, before.discriminator
    images = to_float(image_batch("gan 4")["images"])

    def model(params):
        trees = params, before.buffers, {"encoder": frozen["encoder"]}
        return networks.definition.merge(*trees)

    def classify(params, vectors, images):
        return networks.judge.merge(params, vectors, frozen["discriminator"])(images)

    def disguised(images, key):
        return augment(images, key, probability=0.5, cutout=0.5)

    lpips = networks.lpips.merge(frozen["lpips"])
    features = model(before.params).features(images)
    noisy = add_latent_noise(features, jax.random.fold_in(before.key, 4), TAU)

    def own(params):
        made = model(params).decode_features(noisy)
        perceptual = lpips(to_signed(images), to_signed(made)).mean()
        of_features = feature_loss(model(params).features(made), features)
        return l1_loss(made, images) + 0.5 * perceptual + 0.25 * of_features

    def adversarial(params):
        made = to_signed(model(params).decode_features(noisy))
        disguise = disguised(made, disguise_key(before.key, jnp.int32(4), 0))
        return generator_loss(classify(judge.params, judge.vectors, disguise))

    @jax.jit
    def by_hand(params, new_params, judge):
        ours, theirs = jax.grad(own)(params), jax.grad(adversarial)(params)
        last = [tree["decoder"]["prediction"]["kernel"] for tree in (ours, theirs)]
        weight = norm(last[0]) / (norm(last[1]) + 1e-6)
        total = jax.tree.map(lambda a, b: a + 0.75 * weight * b, ours, theirs)
        keys = jax.random.split(disguise_key(before.key, jnp.int32(4), 1))
        made = discretized(to_signed(model(new_params).decode_features(features)))
        fake, real = disguised(made, keys[0]), disguised(to_signed(images), keys[1])

        def vectors(params, vectors):
            parts = params, vectors, frozen["discriminator"]
            return networks.judge.merge(*parts).next_vectors()

        first = vectors(judge.params, judge.vectors)
        second = vectors(judge.params, first)

        def judged(params):
            return hinge_discriminator_loss(
                classify(params, second, real), classify(params, first, fake)
            )

        return weight, total, jax.grad(judged)(judge.params), second

    weight, total, of_judge, second = by_hand(before.params, after.params, judge)
    assert values["adaptive_weight"] == pytest.approx(float(weight), rel=1e-4)
    expected = before.updated(total, OPTIMIZER, 0.9)
    assert_trees_close(after.params, expected.params, 2e-6)
    assert_trees_close(after.ema, expected.ema, 2e-6)
    heads = judge.updated(of_judge, second, OPTIMIZER)
    assert_trees_close(after.discriminator.params, heads.params, 2e-6)
    assert_trees_close(after.discriminator.vectors, second, 2e-6)


@pytest.mark.slow
def test_parts_of_a_batch_give_the_gradients_of_all_of_it(networks, history):
    states, metrics = history
    batch = image_batch("gan 4")
    step = jax.jit(networks.step(accumulation=3))
    state, values = step(states[4], networks.frozen, batch)
    assert_trees_close(state.params, states[5].params, 5e-6)
    assert_trees_close(state.discriminator.params, states[5].discriminator.params, 5e-6)
    assert_trees_close(state.discriminator.vectors, states[5].discriminator.vectors, 1e-6)
    for name, value in values.items():
        assert float(value) == pytest.approx(metrics[4][name], rel=2e-4, abs=1e-6), name


@pytest.mark.long
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(networks, history, compiled):
    states, metrics = history
    broken = jax.tree.map(jnp.copy, networks.frozen)
    broken["encoder"] = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), broken["encoder"])
    batch = image_batch("gan 4")
    state, values = compiled(states[4], broken, batch)
    assert np.isnan(float(values["loss"]))
    assert int(values["skipped_steps"]) == int(state.skipped) == 1
    assert int(state.step) == 5
    for name in ("params", "ema", "optimizer_state", "discriminator"):
        assert_trees_close(getattr(state, name), getattr(states[4], name), 0)
    _, after = compiled(state, networks.frozen, batch)
    # The learning rate stands still while nothing is learnt.
    assert float(after["learning_rate"]) == metrics[4]["learning_rate"]
    assert int(after["skipped_steps"]) == 1


def test_what_is_off_is_left_out_of_a_step_in_given_phases(networks):
    step, arrays = networks.step(), (networks.state, networks.frozen, image_batch("gan 0"))
    off = step.phases.at(0)
    assert off == Phases(perceptual=False, discriminator=False, adversarial=False)
    program = str(jax.make_jaxpr(lambda *arrays: step.in_phases(*arrays, off))(*arrays))
    assert "conv_general_dilated" not in program
    assert " cond[" not in program
    whole = str(jax.make_jaxpr(step)(*arrays))
    assert "conv_general_dilated" in whole
    assert " cond[" in whole
