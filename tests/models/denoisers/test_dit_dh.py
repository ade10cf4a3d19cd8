import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.configuration import defaults
from rae_jax.diffusion.guidance import Guidance
from rae_jax.diffusion.sampler import Sampler
from rae_jax.diffusion.time_grids import time_grid
from rae_jax.layers.adaln_block import BlockStyle
from rae_jax.layers.functional import Buffer, abstract, split
from rae_jax.models.denoisers.base import Denoiser
from rae_jax.models.denoisers.dit_dh import PRESETS, DiTDH, DiTDHConfig
from rae_jax.weights.convert import export, load
from rae_jax.weights.tables.dit_dh import dit_dh_table
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.models.compiled import filled, run
from tests.models.denoisers.published import dit_dh_config, loaded_dit_dh

VARIANTS = [
    "equal_widths",
    "gelu",
    "integer_heads",
    "layernorm",
    "layernorm_qknorm",
    "no_label_dropout",
    "no_pos_embed",
    "qknorm",
]
TINY = DiTDHConfig(
    latent_shape=(3, 5, 4),
    backbone_hidden_size=24,
    backbone_depth=2,
    backbone_num_heads=2,
    head_hidden_size=16,
    head_depth=2,
    head_num_heads=2,
    num_classes=6,
)
LATENTS = jax.random.normal(jax.random.key(1), (2, 3, 5, 4))
TIMES, LABELS = jnp.array([0.2, 0.9]), jnp.array([1, 6])


def tiny(*, dtype=jnp.float32, unroll=1, remat="none", **changes):
    config = dataclasses.replace(TINY, **changes)
    return filled(lambda: DiTDH(config, dtype=dtype, unroll=unroll, remat=remat, rngs=nnx.Rngs(0)))


def inputs_of(case):
    latents, t, labels = (case.input(name) for name in ("x", "t", "y"))
    return jnp.asarray(nchw_to_nhwc(latents)), jnp.asarray(t), jnp.asarray(labels, jnp.int32)


def predict(denoiser, *inputs, method="__call__"):
    return nhwc_to_nchw(run(denoiser, *inputs, method=method).prediction)


def fresh(config):
    """A model as training starts it; compiled as one, which is quicker than layer by layer."""

    def make():
        return DiTDH(config, dtype=jnp.float32, rngs=nnx.Rngs(jax.random.key(0)))

    definition, _ = split(abstract(make))
    return definition.merge(jax.jit(lambda: split(make())[1])())


@pytest.fixture(scope="module")
def baseline():
    return predict(tiny(), LATENTS, TIMES, LABELS)


@pytest.fixture(scope="module")
def upstream():
    case = load_case("ditdh_tiny")
    return case, loaded_dit_dh(case)


def test_predictions_match_upstream(upstream):
    case, denoiser = upstream
    case.assert_close("out", predict(denoiser, *inputs_of(case)))


def test_inner_values_match_upstream(upstream):
    case, denoiser = upstream
    latents, t, labels = (values[3:4] for values in inputs_of(case))

    def inner(denoiser):
        time = denoiser.time_embedding(t)
        label = denoiser.label_embedding(labels)
        condition = jax.nn.silu(time + label)[:, None]
        backbone_tokens = denoiser.backbone_embedding(latents)
        _, backbone = denoiser._run(
            "backbone",
            backbone_tokens + denoiser.position_table[...][None],
            condition,
            keep_outputs=True,
        )
        state = denoiser.backbone_state(latents, t, labels)
        projected = denoiser.state_projection(state)
        head_tokens = denoiser.head_embedding(latents)
        _, head = denoiser._run("head", head_tokens, projected, keep_outputs=True)
        return {
            "t_embedder": time,
            "y_embedder": label,
            "blocks.0.adaLN_modulation.input": condition,
            "s_embedder": backbone_tokens,
            "blocks.0": backbone[0],
            "blocks.2": backbone[2],
            "s_projector.input": state,
            "s_projector": projected,
            "x_embedder": head_tokens,
            "blocks.4": head[1],
            "final_layer": denoiser.output(head[1], projected),
        }

    definition, weights = split(denoiser)
    values = jax.jit(lambda weights: inner(definition.merge(weights)))(weights)
    for name, value in values.items():
        case.assert_close(f"hidden.{name}", value[0])
    assert {f"hidden.{name}" for name in values} == {
        name for name in case.statement["outputs"] if name.startswith("hidden.")
    }


def test_constructed_positions_match_upstream(upstream):
    case, denoiser = upstream
    case.assert_close("constructed.pos_embed", denoiser.position_table[...][None])


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_match_upstream(name):
    case = load_case(f"ditdh_variants_{name}")
    case.assert_close("out", predict(loaded_dit_dh(case), *inputs_of(case)))


@pytest.mark.parametrize("name", ["given_s", "given_s_segments"])
def test_the_head_alone_matches_upstream(name):
    case = load_case(f"ditdh_variants_{name}")
    state = jnp.asarray(case.input("s"))
    prediction = predict(loaded_dit_dh(case), inputs_of(case)[0], state, method="predict")
    case.assert_close("out", prediction)


@pytest.mark.parametrize("name", [*(f"variants_{variant}" for variant in VARIANTS), "tiny"])
def test_files_survive_the_round_trip_bit_for_bit(name):
    case = load_case(f"ditdh_{name}")
    entries = case.entries()
    denoiser = loaded_dit_dh(case)
    exported = export(dit_dh_table(denoiser.config), denoiser)
    assert exported.keys() - entries.keys() <= {"pos_embed"}
    for key, value in entries.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)


def test_files_bring_their_positions_and_their_rotary_tables_are_left_alone():
    case = load_case("ditdh_tiny")
    tables = {name: case.output(f"constructed.{name}") for name in case.statement["constructed"]}
    tables["pos_embed"] = tables["pos_embed"] + 1
    config = dit_dh_config(case.config)
    denoiser = abstract(lambda: DiTDH(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    load(dit_dh_table(config), case.entries() | tables, denoiser)
    np.testing.assert_array_equal(denoiser.position_table[...][None], tables["pos_embed"])


@pytest.mark.slow
@pytest.mark.parametrize("size", ["s", "xl"])
def test_full_size_matches_upstream(size):
    case = load_case(f"ditdh_{size}_full")
    denoiser = loaded_dit_dh(case)
    preset = PRESETS[size]
    assert denoiser.config == DiTDHConfig(latent_shape=(16, 16, 768), **preset)
    definition, weights = split(denoiser)
    del denoiser

    def forward(weights, latents, t, labels):
        model = definition.merge(weights)
        condition = jax.nn.silu(model.time_embedding(t) + model.label_embedding(labels))[:, None]
        tokens = model.backbone_embedding(latents) + model.position_table[...][None]
        _, backbone = model._run("backbone", tokens, condition, keep_outputs=True)
        state = model.backbone_state(latents, t, labels)
        head = model._run(
            "head", model.head_embedding(latents), model.state_projection(state), keep_outputs=True
        )[1]
        stds = [outputs.std(axis=(1, 2, 3)) for outputs in (backbone, head)]
        return model.predict(latents, state).prediction, jnp.concatenate(stds)

    prediction, stds = jax.jit(forward)(weights, *inputs_of(case))
    out = nhwc_to_nchw(prediction)[0].astype(np.float64)
    case.assert_close("hidden_block_std", stds)
    case.assert_close("out.every_8th_channel", out[::8])
    case.assert_close("out.corner_and_middle_positions", out[:, (0, 3, 8, 15), (0, 12, 7, 15)])
    case.assert_close("out.channel_mean", out.mean(axis=(1, 2)))
    case.assert_close("out.position_mean", out.mean(axis=0))
    size = np.abs(out)
    case.assert_close("out.statistics", [out.mean(), out.std(), size.mean(), size.max()])


def test_it_is_a_denoiser():
    assert isinstance(tiny(), Denoiser)
    assert tiny().null_label == 6 and tiny().latent_shape == (3, 5, 4)


@pytest.mark.parametrize("changes", [{"unroll": 2}, {"remat": "full"}, {"remat": "dots"}])
def test_ways_to_run_the_blocks_agree(baseline, changes):
    prediction = predict(tiny(**changes), LATENTS, TIMES, LABELS)
    np.testing.assert_allclose(prediction, baseline, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rope": False},
        {"style": BlockStyle(use_shift=False)},
        {"use_rope": False, "use_position_embedding": False},
    ],
)
def test_options_that_crash_upstream_work(baseline, changes):
    prediction = predict(tiny(**changes), LATENTS, TIMES, LABELS)
    assert np.all(np.isfinite(prediction))
    assert np.any(np.abs(prediction - baseline) > 1e-3)


def test_patches_of_several_latents():
    latents = jax.random.normal(jax.random.key(1), (2, 4, 6, 4))
    model = tiny(latent_shape=(4, 6, 4), patch_size=2)
    assert model.output.linear.kernel.shape == (16, 16)
    assert predict(model, latents, TIMES, LABELS).shape == (2, 4, 4, 6)


def test_samples_do_not_see_each_other(baseline):
    alone = predict(tiny(), LATENTS[1:], TIMES[1:], LABELS[1:])
    np.testing.assert_allclose(alone, baseline[1:], rtol=0, atol=1e-5)


def test_bfloat16_stays_close_and_predicts_in_float32(baseline):
    prediction = predict(tiny(dtype=jnp.bfloat16), LATENTS, TIMES, LABELS)
    assert prediction.dtype == jnp.float32
    error = np.abs(prediction - baseline).mean() / np.abs(baseline).mean()
    assert 0 < error < 0.02


def flat(module, *filters):
    paths = nnx.to_flat_state(nnx.state(module, *filters))
    return {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in paths}


@pytest.mark.long
def test_initial_distribution_of_every_parameter():
    config = dataclasses.replace(
        TINY,
        latent_shape=(3, 5, 64),
        backbone_hidden_size=96,
        head_hidden_size=128,
        style=BlockStyle(use_qk_norm=True),
    )
    model = fresh(config)
    for path, values in flat(model, nnx.Param).items():
        *_, layer, leaf = path.split(".")
        fan_in, fan_out = values.shape[-2:] if leaf == "kernel" else (0, 0)
        if leaf == "scale":
            assert np.all(values == 1), path
        elif path.startswith("output.") or layer == "modulation":
            assert not np.any(values), path
        elif layer == "projection":
            bound = np.sqrt(6 / (fan_in + fan_out)) if leaf == "kernel" else 0.0
            assert bound * 0.98 <= np.abs(values).max() <= bound, path
        elif path == "label_embedding.table" or (path[:4] == "time" and leaf == "kernel"):
            assert values.std() == pytest.approx(0.02, rel=0.1), path
            assert np.abs(values).max() > 0.05, path
        else:
            kernel = flat(model)[path.removesuffix(leaf) + "kernel"]
            bound = kernel.shape[-2] ** -0.5
            assert 0.9 * bound < np.abs(values).max() <= bound, path
            # Uniform; five standard errors of a standard deviation.
            spread = 5 * bound / np.sqrt(3) * np.sqrt(0.2 / values.size)
            assert abs(values.std() - bound / np.sqrt(3)) < spread, path


@pytest.mark.long
def test_a_fresh_model_predicts_zero_with_layers_that_differ():
    model = fresh(TINY)
    assert not np.any(predict(model, LATENTS, TIMES, LABELS))
    kernels = model.backbone.attention.qkv.kernel[...]
    assert np.all(kernels[0] != kernels[1])


@pytest.mark.long
def test_positions_and_frequencies_are_not_trained():
    definition, parameters, buffers = split(tiny(), nnx.Param, Buffer)
    assert set(buffers) == {"position_table", "time_embedding"}

    def loss(parameters):
        model = definition.merge(parameters, buffers)
        return jnp.mean(model(LATENTS, TIMES, LABELS).prediction ** 2)

    gradients = jax.jit(jax.grad(loss))(parameters)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("size", "millions"), [("s", 196.5), ("xl", 838.7)])
def test_parameter_counts_are_the_published_ones(size, millions):
    config = DiTDHConfig(latent_shape=(16, 16, 768), **PRESETS[size])
    model = abstract(lambda: DiTDH(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))
    assert sum(leaf.size for leaf in leaves) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("size", PRESETS)
def test_presets_agree_with_the_configuration(size):
    section = defaults.denoiser(f"dit_dh_{size}")
    for name, value in dataclasses.asdict(DiTDHConfig((1, 1, 1), **PRESETS[size])).items():
        if name in section:
            assert section[name] == value, name


def test_null_labels_exist_only_after_label_dropout():
    assert tiny(has_null_label=False).null_label is None


@pytest.mark.long
@pytest.mark.parametrize("num_classes", [1, 2, 1000])
def test_any_number_of_classes_can_be_drawn_with_guidance(num_classes):
    model = tiny(num_classes=num_classes)
    times = tuple(map(float, time_grid(3)))
    sampler = Sampler(TINY.latent_shape, times, guidance=Guidance("classifier_free", 2.0))
    definition, weights = split(model)
    labels = jnp.array([0, num_classes - 1])
    inputs = jax.random.key(0), jnp.arange(2), labels
    latents = jax.jit(lambda weights: sampler(definition.merge(weights), *inputs))(weights)
    assert model.label_embedding.table.shape[0] == num_classes + 1
    assert np.all(np.isfinite(latents))


@pytest.mark.slow
def test_compile_time_does_not_grow_with_depth():
    """Forward and backward at full size, with shapes in place of weights."""
    seconds = {}
    for size in ("s", "xl"):
        config = DiTDHConfig(latent_shape=(16, 16, 768), **PRESETS[size])
        model = abstract(lambda: DiTDH(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))  # noqa: B023
        definition, params, buffers = split(model, nnx.Param, Buffer)

        def loss(params, buffers, latents, t, labels, definition=definition):
            return jnp.mean(definition.merge(params, buffers)(latents, t, labels).prediction ** 2)

        inputs = jax.ShapeDtypeStruct((2, 16, 16, 768), jnp.float32), TIMES, LABELS
        start = time.perf_counter()
        jax.jit(jax.grad(loss)).lower(params, buffers, *inputs).compile()
        seconds[size] = time.perf_counter() - start
    print(seconds)
    assert seconds["xl"] < 3 * seconds["s"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 2}, "patch_size must divide the latents' 3x5 grid, got 2"),
        ({"backbone_num_heads": 5}, "backbone_hidden_size must be a multiple of 20 for 5 heads"),
        ({"head_num_heads": 8}, "head_hidden_size must be a multiple of 32 for 8 heads with"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_latents_must_have_the_models_shape():
    with pytest.raises(ValueError, match=r"takes latents of shape \(3, 5, 4\), got \(5, 3, 4\)"):
        tiny()(jnp.zeros((2, 5, 3, 4)), TIMES, LABELS)
