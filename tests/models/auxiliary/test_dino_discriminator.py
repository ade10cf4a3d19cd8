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
from tests.models.compiled import run


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
    def mean(images, params, vectors, frozen):
        logits = upstream.definition.merge(params, vectors, frozen)(images)
        return logits.mean(), logits

    differentiate = jax.jit(jax.value_and_grad(mean, has_aux=True))
    images = upstream.images(f"images_{size}")
    (_, logits), slope = differentiate(images, upstream.params, trained, upstream.frozen)
    case, name = upstream.case, f"eval_grad_{size}"
    case.assert_close(f"eval_logits_{size}", logits)
    found = nhwc_to_nchw(slope)[:, :, ::8, ::8]
    case.assert_close(name, found)
    relative = np.linalg.norm(found - case.output(name)) / np.linalg.norm(case.output(name))
    assert relative < case.statement["outputs"][name]["relative_l2_tolerance"]
    if size == 224:
        case.assert_close("train_logits", logits)


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
            assert np.abs(case.output(name)).max() > 20 * output["tolerance"], name
