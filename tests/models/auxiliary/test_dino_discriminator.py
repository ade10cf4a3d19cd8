"""The discriminator of the RAE release: its parts, its published sizes, its state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.layers.functional import Frozen, abstract, split
from rae_jax.models.auxiliary.dino_discriminator import (
    DINO,
    DINO_SIZES,
    CircularConvolution,
    DINOConfig,
    DINODiscriminator,
    GroupedBatchNorm,
    HeadBlock,
    HeadConfig,
    SpectralVector,
)
from rae_jax.reconstruction.adversarial import hinge_discriminator_loss
from rae_jax.reconstruction.objective import discriminator_gradients
from rae_jax.weights import convert
from rae_jax.weights.table import WeightTable
from rae_jax.weights.tables.dino_discriminator import (
    block_rules,
    convolution_rules,
    dino_table,
    heads_table,
)
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.models.compiled import filled, run


def empty(sizes, heads):
    """A discriminator without arrays."""

    def make():
        rngs = nnx.Rngs(0)
        backbone = DINO(sizes, dtype=jnp.float32, rngs=rngs)
        return DINODiscriminator(backbone, heads, dtype=jnp.float32, rngs=rngs)

    return abstract(make)


def loaded(case, sizes, heads):
    """The discriminator of a case, with its entries by file."""
    files = case.entries("dino_entries"), case.entries("heads_entries")
    discriminator = empty(sizes, heads)
    convert.load(dino_table(sizes.patch_size), files[0], discriminator.backbone)
    convert.load(heads_table(heads), files[1], discriminator.heads)
    return discriminator, files


# Parts.


@pytest.fixture(scope="module")
def blocks():
    return load_case("discriminator_blocks")


def tokens(array):
    return jnp.asarray(np.swapaxes(array, 1, 2))


def channels_first(array):
    return np.swapaxes(np.asarray(array), 1, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_grouped_norm_matches_upstream(blocks, size):
    norm = GroupedBatchNorm(64, epsilon=1e-6, group_size=size)
    entries = blocks.entries("norm_entries")
    norm.scale.set_value(jnp.asarray(entries["weight"]))
    norm.bias.set_value(jnp.asarray(entries["bias"]))
    normed = run(norm, tokens(blocks.input("x")))
    blocks.assert_close(f"bn_virtual_bs_{size}", channels_first(normed))


def test_groups_must_be_equal():
    norm = GroupedBatchNorm(2, epsilon=1e-6, group_size=3)
    with pytest.raises(ValueError, match="5 samples in groups of at most 3 make 2 groups"):
        norm(jnp.zeros((5, 1, 2)))


def with_next_vectors(module):
    """The module after one power iteration."""
    for name, value in module.next_vectors().items():
        getattr(module, name).set_value(value)
    return module


def test_spectral_convolution_matches_upstream(blocks):
    make = lambda: CircularConvolution(  # noqa: E731
        64, 8, 3, spectral=True, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    table = WeightTable(convolution_rules("conv", "", spectral=True))
    entries = {f"conv.{key}": value for key, value in blocks.entries("conv_entries").items()}
    convolution = convert.load(table, entries, abstract(make))
    x = tokens(blocks.input("x"))
    blocks.assert_close("conv_eval_fresh", channels_first(run(convolution, x)))
    with_next_vectors(convolution)
    for name in ("conv_train", "conv_eval_after"):
        blocks.assert_close(name, channels_first(run(convolution, x)))
    blocks.assert_close("conv_train_weight_u", convolution.left[...])
    blocks.assert_close("conv_train_weight_v", convolution.right[...])


@pytest.mark.parametrize("spectral", [True, False])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_block_matches_upstream(blocks, norm, spectral):
    name = f"block_{norm[0]}n_{'spectral' if spectral else 'plain'}"
    config = HeadConfig(norm=norm, spectral=spectral)
    block = abstract(lambda: HeadBlock(64, 5, config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    rules = block_rules(name, "", spectral=spectral)
    entries = blocks.entries(f"{name}_entries")
    convert.load(WeightTable(rules), {f"{name}.{k}": v for k, v in entries.items()}, block)
    with_next_vectors(block.convolution)
    answer = channels_first(run(block, tokens(blocks.input("x"))))
    blocks.assert_close(name, answer)
    if spectral:
        blocks.assert_close(f"{name}_eval_after", answer)
        blocks.assert_close(f"{name}_u", block.convolution.left[...])
        blocks.assert_close(f"{name}_v", block.convolution.right[...])


# Whole networks.


class Upstream:
    """A published size: the three steps of its case."""

    def __init__(self, name):
        self.case, self.name = load_case(f"discriminator_{name}"), name
        self.discriminator, self.files = loaded(self.case, DINO_SIZES[name], HeadConfig())
        parts = split(self.discriminator, nnx.Param, SpectralVector, Frozen)
        self.definition, self.params, self.vectors, self.frozen = parts

    def classify(self, params, vectors, images):
        return self.definition.merge(params, vectors, self.frozen)(images)

    def next_vectors(self, params, vectors):
        return self.definition.merge(params, vectors, self.frozen).next_vectors()

    def images(self, name):
        return jnp.asarray(nchw_to_nhwc(self.case.input(name)))

    def assert_heads(self, start, params, vectors):
        """Compares `start`/KEY of the case with the heads' trees, in the file's layout."""
        heads = self.definition.merge(params, vectors, self.frozen).heads
        written = convert.export(heads_table(HeadConfig()), heads)
        names = [n for n in self.case.statement["outputs"] if n.startswith(f"{start}/")]
        assert names
        for name in names:
            self.assert_slice(name, written[name.removeprefix(f"{start}/")])

    def assert_slice(self, name, array):
        output = self.case.statement["outputs"][name]
        steps = {"slice [::16, ::16]": 16, "slice [::32, ::32]": 32}
        for text, step in steps.items():
            if output["note"].endswith(text):
                array = array[::step, ::step]
        self.case.assert_close(name, array)
        if "relative_l2_tolerance" in output:
            expected = self.case.output(name)
            relative = np.linalg.norm(array - expected) / np.linalg.norm(expected)
            assert relative < output["relative_l2_tolerance"], name


@pytest.fixture(scope="module", params=["S_16", pytest.param("S_8", marks=pytest.mark.slow)])
def upstream(request):
    return Upstream(request.param)


@pytest.fixture(scope="module")
def trained(upstream):
    """Vectors after the first training forward."""
    return jax.jit(upstream.next_vectors)(upstream.params, upstream.vectors)


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 256])
def test_logits_and_their_gradients_match_upstream(upstream, trained, size):
    """Gradients jump where the input of a leaky ReLU crosses zero.

    Of a million inputs one or so is within rounding of zero, and falls on either side. So slopes
    are also taken at images a rounding error away; one of them is upstream's, for each image.
    """

    def mean(images, params, vectors, frozen):
        logits = upstream.definition.merge(params, vectors, frozen)(images)
        return logits.mean(), logits

    case, name = upstream.case, f"eval_grad_{size}"
    differentiate = jax.jit(jax.value_and_grad(mean, has_aux=True))
    images, slopes = upstream.images(f"images_{size}"), []
    for scale, seed in ((0, 0), (1e-7, 0), (1e-7, 1), (3e-7, 4)):
        near = images + scale * jax.random.normal(jax.random.key(seed), images.shape)
        (_, logits), slope = differentiate(near, upstream.params, trained, upstream.frozen)
        slopes.append(nhwc_to_nchw(slope)[:, :, ::8, ::8])
        if scale == 0:
            case.assert_close(f"eval_logits_{size}", logits)
            if size == 224:
                case.assert_close("train_logits", logits)
    output = case.statement["outputs"][name]
    for index, expected in enumerate(case.output(name)):
        errors = [slope[index] - expected for slope in slopes]
        relative = [np.linalg.norm(error) / np.linalg.norm(expected) for error in errors]
        best = int(np.argmin(relative))
        assert relative[best] < output["relative_l2_tolerance"], relative
        assert np.abs(errors[best]).max() < output["tolerance"]


def test_vectors_after_a_training_forward_match_upstream(upstream, trained):
    upstream.assert_heads("after_train", upstream.params, trained)


@pytest.mark.slow
def test_a_training_pair_matches_upstream(upstream, trained):
    def merge(params, vectors, frozen):
        return upstream.definition.merge(params, vectors, frozen)

    @jax.jit
    def step(params, vectors, frozen, fake, real):
        return discriminator_gradients(
            lambda params, vectors, images: merge(params, vectors, frozen)(images),
            lambda params, vectors: merge(params, vectors, frozen).next_vectors(),
            params,
            vectors,
            fake=fake,
            real=real,
            loss=hinge_discriminator_loss,
        )

    case, params, frozen = upstream.case, upstream.params, upstream.frozen
    images = {"fake": upstream.images("fake"), "real": upstream.images("images_224")}
    gradients, vectors, metrics = step(params, trained, frozen, **images)
    case.assert_close("pair_hinge", metrics["discriminator_loss"])
    upstream.assert_heads("after_pair", params, vectors)
    upstream.assert_heads("pair_grad", gradients, vectors)
    classify = jax.jit(lambda vectors, frozen, images: merge(params, vectors, frozen)(images))
    first = jax.jit(upstream.next_vectors)(params, trained)
    for name, used in (("fake", first), ("real", vectors)):
        logits = classify(used, frozen, images[name])
        case.assert_close(f"pair_logits_{name}", logits)
        assert float(metrics[f"logits_{name}"]) == pytest.approx(float(logits.mean()), abs=1e-6)


def test_every_entry_goes_in_and_comes_out(upstream):
    discriminator, (dino, heads) = upstream.discriminator, upstream.files
    unused = set(upstream.case.statement["unused"])
    written = convert.export(
        dino_table(DINO_SIZES[upstream.name].patch_size), discriminator.backbone
    )
    assert written.keys() == dino.keys() - unused
    assert all(np.array_equal(written[key], dino[key]) for key in written)
    written = convert.export(heads_table(HeadConfig()), discriminator.heads)
    assert written.keys() == heads.keys()
    assert all(np.array_equal(written[key], heads[key]) for key in written)


def test_zeros_would_fail(upstream, blocks):
    for case in (upstream.case, blocks):
        for name, output in case.statement["outputs"].items():
            assert np.abs(case.output(name)).max() > 8 * output["tolerance"], name


# A small one.

SIZES = DINOConfig(hidden_size=32, depth=2, num_heads=2, patch_size=8, image_size=32, mlp_ratio=2.0)
HEADS = HeadConfig(key_depths=(0, 1), kernel_size=3)


def fresh(dtype, heads=HEADS):
    rngs = nnx.Rngs(0)
    backbone = DINO(SIZES, dtype=dtype, rngs=rngs)
    return DINODiscriminator(backbone, heads, dtype=dtype, rngs=rngs)


@pytest.fixture(scope="module")
def small():
    """Definition, parameters, vectors and backbone."""
    return split(filled(lambda: fresh(jnp.float32)), nnx.Param, SpectralVector, Frozen)


@pytest.fixture(scope="module")
def following(small):
    """The vectors after one power iteration."""
    definition, *trees = small
    return jax.jit(lambda *trees: definition.merge(*trees).next_vectors())(*trees)


def test_a_power_iteration_changes_the_vectors_it_returns_and_nothing_else(small, following):
    definition, params, vectors, frozen = small
    module = definition.merge(params, vectors, frozen)
    module.next_vectors()
    untouched = split(module, nnx.Param, SpectralVector, Frozen)[2]
    jax.tree.map(np.testing.assert_array_equal, untouched, vectors)
    assert jax.tree.structure(following) == jax.tree.structure(vectors)
    for before, after in zip(*map(jax.tree.leaves, (vectors, following)), strict=True):
        assert before.shape == after.shape
        np.testing.assert_allclose(np.linalg.norm(after, axis=-1), 1, rtol=1e-5)
        assert np.any(before != after)


def test_a_fresh_convolution_is_drawn_as_by_torch():
    convolution = CircularConvolution(32, 16, 3, spectral=True, dtype=jnp.float32, rngs=nnx.Rngs(0))
    bound = 96**-0.5
    for values in (convolution.kernel[...], convolution.bias[...]):
        assert 0.8 * bound < float(jnp.max(jnp.abs(values))) <= bound
    for vector in (convolution.left[...], convolution.right[...]):
        assert float(jnp.linalg.norm(vector)) == pytest.approx(1, rel=1e-5)


def test_repeated_power_iterations_find_the_largest_singular_value(small):
    definition, params, vectors, frozen = small

    @jax.jit
    def iterated(params, vectors, frozen):
        def body(_, vectors):
            return definition.merge(params, vectors, frozen).next_vectors()

        return jax.lax.fori_loop(0, 200, body, vectors)

    found = iterated(params, vectors, frozen)["heads"]["mixing"]["convolution"]
    kernels = np.asarray(params["heads"]["mixing"]["convolution"]["kernel"])
    for kernel, left, right in zip(kernels, found["left"], found["right"], strict=True):
        matrix = kernel.transpose(2, 1, 0).reshape(32, -1)
        largest = np.linalg.svd(matrix, compute_uv=False)[0]
        assert float(left @ matrix @ right) == pytest.approx(largest, rel=1e-3)


def test_the_first_head_and_that_of_the_last_block_see_the_same(small):
    definition, *trees = small
    images = jnp.linspace(-1, 1, 2 * 40 * 24 * 3).reshape(2, 40, 24, 3)

    @jax.jit
    def evaluated(images, *trees):
        module = definition.merge(*trees)
        return module.features(images), module(images)

    features, logits = evaluated(images, *trees)
    np.testing.assert_array_equal(features[0], features[2])
    assert np.any(features[0] != features[1])
    assert logits.shape == (2, 3 * 16)
    assert np.any(logits[:, :16] != logits[:, 32:])


def test_bfloat16_stays_near_float32(small, following):
    trees = small[1], following, small[3]
    images = jnp.linspace(-1, 1, 2 * 32 * 32 * 3).reshape(2, 32, 32, 3)
    low = split(abstract(lambda: fresh(jnp.bfloat16)), nnx.Param, SpectralVector, Frozen)[0]
    answers = [
        jax.jit(lambda images, *trees, d=definition: d.merge(*trees)(images))(images, *trees)
        for definition in (small[0], low)
    ]
    assert answers[1].dtype == jnp.float32
    scale = float(jnp.std(answers[0]))
    error = float(jnp.max(jnp.abs(answers[0] - answers[1])))
    assert 0 < error < 0.1 * scale


def test_heads_without_spectral_norm_have_no_vectors():
    heads = HeadConfig(key_depths=(0,), norm="group", spectral=False)
    module = abstract(lambda: fresh(jnp.float32, heads))
    assert module.next_vectors() == {} == split(module, nnx.Param, SpectralVector, Frozen)[2]
    names = convert.entry_shapes(heads_table(heads), module.heads)
    assert names["heads.1.1.fn.0.weight"] == (32, 32, 9)
    assert not [name for name in names if name.endswith(("_orig", "_u", "_v"))]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: HeadConfig(kernel_size=4), "kernel_size must be odd, got 4"),
        (lambda: empty(SIZES, HeadConfig()), "key_depths must be some of 0 to 1, the backbone"),
        (lambda: DINOConfig(patch_size=15), "must be a multiple of patch_size 15, got 224"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
