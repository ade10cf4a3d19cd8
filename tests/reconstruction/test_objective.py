"""The losses of stage 1 put together, against the RAE release."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Buffer, Frozen, abstract, split
from rae_jax.models.auxiliary.dino_discriminator import (
    DINO,
    DINOConfig,
    DINODiscriminator,
    HeadConfig,
    SpectralVector,
)
from rae_jax.models.auxiliary.lpips import LPIPS
from rae_jax.models.auxiliary.vgg import VGG16
from rae_jax.ops.augment import apply_augmentation, augment
from rae_jax.ops.images import to_signed
from rae_jax.reconstruction.adaptive_weight import adaptive_weight
from rae_jax.reconstruction.adversarial import (
    discretized,
    generator_loss,
    hinge_discriminator_loss,
)
from rae_jax.reconstruction.objective import (
    DecoderLoss,
    Phases,
    PhaseStarts,
    discriminator_gradients,
    discriminator_inputs,
)
from rae_jax.sharding.mesh import batch_sharding, make_mesh, replicated
from rae_jax.training.optimizers import adamw, learning_rate_schedule
from rae_jax.training.state import TrainState
from rae_jax.weights import convert
from rae_jax.weights.tables.dino_discriminator import dino_table, heads_table
from rae_jax.weights.tables.lpips import LPIPS_TABLE
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.golden import recipe
from tests.reconstruction.published import autoencoder, decoder_entries

pytestmark = pytest.mark.slow  # Whole networks are compiled, some of them several times.

ON, OFF = (Phases(*[np.array(value)] * 3) for value in (True, False))
HEADS = HeadConfig(key_depths=(0, 1), kernel_size=3)


def last_kernel(tree):
    return tree["decoder"]["prediction"]["kernel"]


class Upstream:
    """The networks of the case `losses`, as pure functions of their arrays."""

    def __init__(self):
        self.case = case = load_case("losses")
        # Upstream trains the position table too.
        self.model, self.params, encoder = split(autoencoder(case), (nnx.Param, Buffer), Frozen)
        entries = case.entries("vgg_entries") | case.entries("lin_entries")
        empty = abstract(lambda: LPIPS(VGG16(dtype=jnp.float32, rngs=nnx.Rngs(0))))
        self.lpips, lpips = split(convert.load(LPIPS_TABLE, entries, empty))
        discriminator = self._discriminator()
        parts = split(discriminator, nnx.Param, SpectralVector, Frozen)
        self.judge, self.heads, vectors, dino = parts
        self.frozen = {"encoder": encoder, "lpips": lpips, "dino": dino}
        self.vectors = jax.jit(self.next_vectors)(self.heads, vectors, self.frozen)
        self.images = self.input("images")

    def _discriminator(self):
        layout = self.case.config["discriminator"]["layout"]
        sizes = DINOConfig(
            hidden_size=layout["embed_dim"],
            depth=layout["depth"],
            num_heads=layout["num_heads"],
            patch_size=layout["patch_size"],
            mlp_ratio=layout["mlp_ratio"],
        )

        def make():
            rngs = nnx.Rngs(0)
            backbone = DINO(sizes, dtype=jnp.float32, rngs=rngs)
            return DINODiscriminator(backbone, HEADS, dtype=jnp.float32, rngs=rngs)

        made = abstract(make)
        convert.load(dino_table(sizes.patch_size), self.case.entries("dino_entries"), made.backbone)
        convert.load(heads_table(HEADS), self.case.entries("heads_entries"), made.heads)
        return made

    def input(self, name):
        return jnp.asarray(nchw_to_nhwc(self.case.input(name)))

    def disguised(self, images, name):
        choices = jnp.asarray(self.case.input(f"rand3_{name}"))
        draws = jnp.asarray(self.case.input(f"rand7_{name}"))[..., 0, 0]
        return apply_augmentation(images, choices, draws, probability=1.0)

    def merged_judge(self, heads, vectors, frozen):
        return self.judge.merge(heads, vectors, frozen["dino"])

    def next_vectors(self, heads, vectors, frozen):
        return self.merged_judge(heads, vectors, frozen).next_vectors()

    def decoder_gradients(self, params, images, phases, frozen, heads, vectors):
        """Gradients, metrics, and the images on the way."""

        def reconstruct(params):
            return self.model.merge(params, frozen["encoder"])(images)

        def perceptual(reconstructions):
            network = self.lpips.merge(frozen["lpips"])
            return network(to_signed(images), to_signed(reconstructions)).mean()

        def adversarial(reconstructions):
            disguised = self.disguised(to_signed(reconstructions), "generator")
            return generator_loss(self.merged_judge(heads, vectors, frozen)(disguised))

        loss = DecoderLoss(perceptual=1.0, adversarial=0.75)
        gradients, metrics = loss.gradients(
            reconstruct,
            params,
            images,
            phases,
            last_kernel=last_kernel,
            perceptual_loss=perceptual,
            adversarial_loss=adversarial,
        )
        return gradients, metrics, reconstruct(params)


@pytest.fixture(scope="module")
def upstream():
    return Upstream()


@pytest.fixture(scope="module")
def compiled(upstream):
    """The decoder's gradients, compiled once for all phases."""
    function = jax.jit(upstream.decoder_gradients)

    def call(phases):
        arrays = upstream.frozen, upstream.heads, upstream.vectors
        return function(upstream.params, upstream.images, phases, *arrays)

    call.function = function
    return call


@pytest.fixture(scope="module")
def everything_on(compiled):
    return compiled(ON)


def assert_close(case, name, array):
    case.assert_close(name, array)
    output = case.statement["outputs"][name]
    if "relative_l2_tolerance" in output:
        expected = case.output(name)
        relative = np.linalg.norm(array - expected) / np.linalg.norm(expected)
        assert relative < output["relative_l2_tolerance"], name


def test_decoder_losses_match_upstream(upstream, everything_on):
    case, (_, metrics, reconstructions) = upstream.case, everything_on
    case.assert_close("recon", nhwc_to_nchw(reconstructions))
    for ours, theirs in {
        "l1": "rec_loss",
        "perceptual": "lpips_loss",
        "adversarial": "gan_loss",
        "adaptive_weight": "adaptive_weight",
        "loss": "total_loss",
        "last_layer_reconstruction": "grad_norm_recon_total",
        "last_layer_adversarial": "grad_norm_gan_loss",
    }.items():
        case.assert_close(theirs, metrics[ours])
    case.assert_close("recon_total", metrics["l1"] + metrics["perceptual"])


def test_decoder_gradients_match_upstream(upstream, everything_on):
    gradients = everything_on[0]
    written = decoder_entries(upstream.model.merge(gradients, upstream.frozen["encoder"]))
    names = [name for name in upstream.case.statement["outputs"] if name.startswith("grad/")]
    assert len(names) == 5
    for name in names:
        assert_close(upstream.case, name, written[name.removeprefix("grad/")])


def test_adaptive_weight_is_clipped_and_bounded_like_upstreams(upstream, everything_on):
    case, metrics = upstream.case, everything_on[1]
    norms = metrics["last_layer_reconstruction"], metrics["last_layer_adversarial"]
    case.assert_close("adaptive_weight_clamped", adaptive_weight(*norms, largest=0.01))
    small = adaptive_weight(norms[0], norms[1] * 1e-4, largest=1e9)
    case.assert_close("adaptive_weight_small_gan", small)


def test_adaptive_weight_of_other_losses_matches_upstream(upstream):
    mix = upstream.input("mix")

    def weight(params, images, encoder):
        _, metrics = DecoderLoss(adversarial=1.0).gradients(
            lambda params: upstream.model.merge(params, encoder)(images),
            params,
            images,
            ON,
            last_kernel=last_kernel,
            adversarial_loss=lambda reconstructions: -jnp.mean(reconstructions * mix),
        )
        return metrics["adaptive_weight"]

    found = jax.jit(weight)(upstream.params, upstream.images, upstream.frozen["encoder"])
    upstream.case.assert_close("adaptive_weight_mix", found)


def test_disguised_reconstructions_and_their_logits_match_upstream(upstream, everything_on):
    case = upstream.case
    disguised = upstream.disguised(to_signed(everything_on[2]), "generator")
    case.assert_close("fake_aug", nhwc_to_nchw(disguised))
    classify = jax.jit(lambda *arrays: upstream.merged_judge(*arrays[1:])(arrays[0]))
    logits = classify(disguised, upstream.heads, upstream.vectors, upstream.frozen)
    case.assert_close("logits_fake", logits)


def test_discriminator_step_matches_upstream(upstream):
    case = upstream.case

    def step(heads, vectors, frozen, fake, real):
        gradients, vectors, metrics = discriminator_gradients(
            lambda heads, vectors, images: upstream.merged_judge(heads, vectors, frozen)(images),
            lambda heads, vectors: upstream.next_vectors(heads, vectors, frozen),
            heads,
            vectors,
            fake=fake,
            real=real,
            loss=hinge_discriminator_loss,
        )
        return gradients, vectors, metrics

    fake = discretized(to_signed(upstream.input("fake_images")))
    case.assert_close("disc_fakes", nhwc_to_nchw(fake))
    real = upstream.disguised(to_signed(upstream.images), "real")
    fake = upstream.disguised(fake, "fake")
    gradients, vectors, metrics = jax.jit(step)(
        upstream.heads, upstream.vectors, upstream.frozen, fake, real
    )
    case.assert_close("d_loss", metrics["discriminator_loss"])
    case.assert_close("accuracy", metrics["discriminator_accuracy"])
    for name in ("fake", "real"):
        mean = case.output(f"disc_logits_{name}").mean()
        tolerance = case.statement["outputs"][f"disc_logits_{name}"]["tolerance"]
        assert float(metrics[f"logits_{name}"]) == pytest.approx(float(mean), abs=tolerance)
    heads = upstream.merged_judge(gradients, vectors, upstream.frozen).heads
    written = convert.export(heads_table(HEADS), heads)
    names = [name for name in case.statement["outputs"] if name.startswith("disc_grad/")]
    assert len(names) == 12
    for name in names:
        assert_close(case, name, written[name.removeprefix("disc_grad/")])


def test_zeros_would_fail(upstream):
    case = upstream.case
    for name, output in case.statement["outputs"].items():
        if "mathematically zero" not in output["note"]:
            assert np.abs(case.output(name)).max() > 20 * output["tolerance"], name


# Phases.


def leaves(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_phases_switch_without_another_compilation(upstream, compiled, everything_on):
    off, off_metrics, _ = compiled(OFF)
    part, part_metrics, _ = compiled(Phases(*map(np.array, (True, True, False))))
    on, on_metrics, _ = everything_on
    assert compiled.function._cache_size() == 1
    for name in ("perceptual", "adversarial", "adaptive_weight"):
        assert float(off_metrics[name]) == 0 != float(on_metrics[name])
    assert float(off_metrics["loss"]) == float(off_metrics["l1"]) == float(on_metrics["l1"])
    assert float(part_metrics["perceptual"]) == float(on_metrics["perceptual"])
    assert float(part_metrics["adversarial"]) == float(part_metrics["adaptive_weight"]) == 0
    for first, second in ((off, part), (part, on), (off, on)):
        assert np.linalg.norm(leaves(first) - leaves(second)) > 1e-3 * np.linalg.norm(leaves(on))


def test_terms_are_summed_with_their_factors():
    """On one parameter, where all gradients are known."""
    images = jnp.zeros((1, 1, 1, 3))
    params = {"decoder": {"prediction": {"kernel": jnp.array([2.0])}}}
    loss = DecoderLoss(l1=3.0, perceptual=5.0, features=7.0, adversarial=11.0)

    @jax.jit
    def gradients(phases):
        return loss.gradients(
            lambda params: jnp.broadcast_to(last_kernel(params)[:, None, None, None], (1, 1, 1, 3)),
            params,
            images,
            phases,
            last_kernel=last_kernel,
            perceptual_loss=lambda x: 10 * x.mean(),
            feature_loss=lambda x: 100 * x.mean(),
            adversarial_loss=lambda x: -0.5 * x.mean(),
        )

    slopes, metrics = gradients(ON)
    others = 3 + 5 * 10 + 7 * 100
    weight = others / (0.5 + 1e-6)
    assert float(metrics["adaptive_weight"]) == pytest.approx(weight)
    assert float(last_kernel(slopes)[0]) == pytest.approx(others - 11 * weight * 0.5, rel=1e-5)
    total = 2 * others - 11 * weight * 0.5 * 2
    assert float(metrics["loss"]) == pytest.approx(total, rel=1e-5)
    slopes, _ = gradients(OFF)
    assert float(last_kernel(slopes)[0]) == pytest.approx(3 + 700)


def test_a_factor_needs_its_function():
    params = {"decoder": {"prediction": {"kernel": jnp.zeros(1)}}}
    images = jnp.zeros((1, 1, 1, 3))
    for name in ("perceptual", "features", "adversarial"):
        with pytest.raises(ValueError, match=f"the factor of the {name} loss is not zero"):
            DecoderLoss(**{name: 1.0}).gradients(
                lambda params: images + last_kernel(params)[None, None, None],
                params,
                images,
                ON,
                last_kernel=last_kernel,
            )


def test_phases_begin_at_their_steps():
    starts = PhaseStarts(perceptual=1, discriminator=2, adversarial=4)
    steps = [starts.at(jnp.int32(step)) for step in range(5)]
    assert [bool(phases.perceptual) for phases in steps] == [False, True, True, True, True]
    assert [bool(phases.discriminator) for phases in steps] == [False, False, True, True, True]
    assert [bool(phases.adversarial) for phases in steps] == [False, False, False, False, True]


def test_adaptive_weight_costs_two_products_and_no_backward_pass():
    """Counted in the compiled program, of layers wide enough to outweigh everything else."""
    width, pixels, batch, depth = 64, 12, 32, 6
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "blocks": jax.random.normal(keys[0], (depth, width, width)) / 8,
        "decoder": {"prediction": {"kernel": jax.random.normal(keys[1], (width, pixels))}},
    }
    tokens = jax.random.normal(keys[2], (batch, width))
    images = jnp.zeros((batch, 2, 2, 3))

    def cost(adversarial):
        loss = DecoderLoss(adversarial=adversarial)

        def gradients(params, tokens, images):
            def reconstruct(params):
                hidden, _ = jax.lax.scan(
                    lambda x, block: (jnp.tanh(x @ block), None), tokens, params["blocks"]
                )
                return (hidden @ last_kernel(params)).reshape(images.shape)

            return loss.gradients(
                reconstruct,
                params,
                images,
                ON,
                last_kernel=last_kernel,
                adversarial_loss=lambda x: jnp.mean(x**2),
            )

        program = jax.jit(gradients).lower(params, tokens, images).compile()
        return program.cost_analysis()["flops"], program.as_text().count(" while(")

    (plain, plain_loops), (balanced, balanced_loops) = cost(0.0), cost(1.0)
    assert plain_loops == balanced_loops == 2
    products = 2 * (2 * batch * width * pixels)
    assert products < balanced - plain < 1.5 * products


@pytest.mark.slow
def test_on_a_mesh_the_adaptive_weight_is_that_of_the_whole_batch(upstream):
    images = jnp.asarray(recipe.uniform("mesh", (8, 16, 16, 3)))
    params = {"decoder": {"prediction": {"kernel": jnp.asarray(recipe.uniform("k", (3, 3)))}}}

    def gradients(params, images, heads, vectors, frozen):
        def adversarial(reconstructions):
            disguised = augment(reconstructions, jax.random.key(1), probability=1.0, cutout=0.2)
            return generator_loss(upstream.merged_judge(heads, vectors, frozen)(disguised))

        return DecoderLoss(adversarial=0.75).gradients(
            lambda params: images @ last_kernel(params),
            params,
            images,
            ON,
            last_kernel=last_kernel,
            adversarial_loss=adversarial,
        )

    arrays = upstream.heads, upstream.vectors, upstream.frozen
    answers = []
    for count in (1, 8):
        mesh = make_mesh(devices=jax.devices()[:count])
        placed = jax.device_put(images, batch_sharding(mesh))
        others = jax.device_put((params, arrays), replicated(mesh))
        with jax.set_mesh(mesh):
            answers.append(jax.jit(gradients)(others[0], placed, *others[1]))
    (one, metrics), (eight, sharded) = answers
    for name in metrics:
        np.testing.assert_allclose(sharded[name], metrics[name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(last_kernel(eight), last_kernel(one), rtol=0, atol=1e-4)
    assert float(metrics["adaptive_weight"]) > 0


# Inputs of the discriminator.


def test_reconstructions_are_stored_before_they_are_disguised_and_images_are_not():
    images = jnp.linspace(-0.5, 1.5, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    seen = []

    def disguise(images, key):
        seen.append(jax.random.key_data(key))
        return images

    fake, real = discriminator_inputs(images, images, jax.random.key(0), disguise)
    levels = (np.asarray(fake) + 1) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), rtol=0, atol=1e-4)
    assert levels.min() == 0
    assert levels.max() == 255
    np.testing.assert_array_equal(real, to_signed(images))
    assert np.any(seen[0] != seen[1])


# A whole step without the other networks.


def test_two_steps_of_l1_match_upstream():
    case = load_case("stage1_train_step")
    model, params, frozen = split(autoencoder(case), (nnx.Param, Buffer), Frozen)
    settings = case.config["training"]
    scheduled, chosen = settings["scheduler"], settings["optimizer"]
    schedule = learning_rate_schedule(
        scheduled["type"],
        base=scheduled["base_lr"],
        final=scheduled["final_lr"],
        warmup_steps=scheduled["warmup_steps"],
        end_step=scheduled["decay_end_steps"],
        warmup_from_zero=scheduled["warmup_from_zero"],
    )
    optimizer = adamw(
        schedule,
        beta_1=chosen["betas"][0],
        beta_2=chosen["betas"][1],
        weight_decay=chosen["weight_decay"],
    )
    state = TrainState.create(params, {}, optimizer, jax.random.key(0))

    @jax.jit
    def step(state, frozen, images):
        gradients, metrics = DecoderLoss().gradients(
            lambda params: model.merge(params, frozen)(images),
            state.params,
            images,
            OFF,
            last_kernel=last_kernel,
        )
        return state.updated(gradients, optimizer, case.config["ema_decay"]), gradients, metrics

    def compare(start, tree):
        entries = decoder_entries(model.merge(tree, frozen))
        names = [n for n in case.statement["outputs"] if n.startswith(f"{start}/")]
        assert len(names) == len(entries)
        for name in names:
            case.assert_close(name, entries[name.removeprefix(f"{start}/")])

    losses = []
    for index in (1, 2):
        images = jnp.asarray(nchw_to_nhwc(case.input(f"images_step{index}")))
        state, gradients, metrics = step(state, frozen, images)
        if index == 1:
            compare("grad1", gradients)
        compare(f"step{index}", state.params)
        compare(f"ema{index}", state.ema)
        losses.append(metrics["loss"])
    case.assert_close("losses", np.stack(losses))
