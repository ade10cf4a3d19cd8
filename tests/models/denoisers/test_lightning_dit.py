import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rae_jax.diffusion.guidance import autoguidance, classifier_free
from rae_jax.layers.adaln_block import BlockStyle
from rae_jax.layers.functional import Buffer, abstract, split
from rae_jax.models.denoisers.base import Denoiser
from rae_jax.models.denoisers.lightning_dit import LightningDiT, LightningDiTConfig
from rae_jax.weights.convert import export
from rae_jax.weights.tables.lightning_dit import lightning_dit_table
from tests.comparison import load_case, nchw_to_nhwc, nhwc_to_nchw
from tests.models.compiled import filled, run
from tests.models.denoisers.published import loaded_lightning_dit

CASES = ["tiny", "tiny_patch2", "tiny_plain", "tiny_sigma"]
TINY = LightningDiTConfig((4, 6, 4), patch_size=2, hidden_size=16, depth=2, num_heads=2)
LATENTS = jax.random.normal(jax.random.key(1), (2, 4, 6, 4))
TIMES, LABELS = jnp.array([0.2, 0.9]), jnp.array([1, 1000])


def tiny(*, dtype=jnp.float32, unroll=1, remat="none", **changes):
    config = dataclasses.replace(TINY, **changes)
    return filled(
        lambda: LightningDiT(config, dtype=dtype, unroll=unroll, remat=remat, rngs=nnx.Rngs(0))
    )


def predict(denoiser, *inputs):
    return nhwc_to_nchw(run(denoiser, *inputs).prediction)


def inputs_of(case, names=("x", "t", "y")):
    latents, t, labels = (case.input(name) for name in names)
    return jnp.asarray(nchw_to_nhwc(latents)), jnp.asarray(t), jnp.asarray(labels, jnp.int32)


@pytest.fixture(scope="module", params=CASES)
def upstream(request):
    case = load_case(f"lightningdit_{request.param}")
    return case, loaded_lightning_dit(case)


def test_predictions_match_upstream(upstream):
    case, denoiser = upstream
    case.assert_close("out", predict(denoiser, *inputs_of(case)))


def test_inner_values_match_upstream(upstream):
    case, denoiser = upstream
    latents, t, labels = (values[1:2] for values in inputs_of(case))

    def inner(denoiser):
        condition = denoiser._condition(t, labels)
        _, blocks = denoiser._run(denoiser._tokens(latents), condition, keep_outputs=True)
        return {
            "x_embedder": denoiser.embedding(latents),
            "t_embedder": denoiser.time_embedding(t),
            "y_embedder": denoiser.label_embedding(labels),
            "blocks.0": blocks[0],
            "blocks.2": blocks[2],
            "final_layer": denoiser.output(blocks[2], condition),
        }

    definition, weights = split(denoiser)
    values = jax.jit(lambda weights: inner(definition.merge(weights)))(weights)
    for name, value in values.items():
        case.assert_close(f"hidden.{name}", value[0])


GUIDED = ["tiny", "tiny_sigma"]


def guided_calls(name):
    calls = load_case(f"lightningdit_{name}").statement["calls"]
    return [(name, call["output"]) for call in calls if call["method"] != "forward"]


@pytest.fixture(scope="module")
def guided():
    """Compiled drifts of the cases that have a guide: (case, method) -> function."""
    drifts = {}
    for name in GUIDED:
        case = load_case(f"lightningdit_{name}")
        main, guide = (
            loaded_lightning_dit(case),
            loaded_lightning_dit(case, case.statement["guide"]),
        )

        def velocity(latents, t, labels, denoiser=main):
            return denoiser(latents, t, labels).prediction

        def weaker(latents, t, labels, denoiser=guide):
            return denoiser(latents, t, labels).prediction

        drifts[name, "forward_with_cfg"] = jax.jit(
            lambda latents, t, labels, scale, f=velocity, n=main.null_label: classifier_free(
                f, labels, n, scale=scale
            )(latents, t)
        )
        drifts[name, "forward_with_autoguidance"] = jax.jit(
            lambda latents, t, labels, scale, f=velocity, g=weaker: autoguidance(
                f, g, labels, scale=scale
            )(latents, t)
        )
    return drifts


@pytest.mark.parametrize(("name", "output"), [c for name in GUIDED for c in guided_calls(name)])
def test_guided_predictions_match_upstream(guided, name, output):
    case = load_case(f"lightningdit_{name}")
    (call,) = (call for call in case.statement["calls"] if call["output"] == output)
    latents, t, labels = inputs_of(case, call["args"].values())
    settings = call["kwargs"]
    # This class guides outside the intervals, and inside only with its second scale.
    inside = any(low <= t[0] < high for low, high in settings["cfg_interval"])
    scale = max(settings["interval_cfg"], 1.0) if inside else settings["cfg_scale"]
    drift = guided[name, call["method"]]
    half = drift(latents[:2], t[0], labels[:2], jnp.float32(scale))
    case.assert_close(output, nhwc_to_nchw(jnp.concatenate([half, half])))


def test_files_survive_the_round_trip_bit_for_bit(upstream):
    case, denoiser = upstream
    entries = case.entries()
    exported = export(lightning_dit_table(denoiser.config), denoiser)
    assert exported.keys() - entries.keys() == {"pos_embed"}
    for key, value in entries.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)


def test_it_is_a_denoiser():
    model = tiny()
    assert isinstance(model, Denoiser)
    assert model.null_label == 1000 and model.latent_shape == (4, 6, 4)
    assert tiny(has_null_label=False).null_label is None


def test_ways_to_run_and_options_that_crash_upstream():
    expected = predict(tiny(), LATENTS, TIMES, LABELS)
    again = predict(tiny(unroll=2, remat="dots"), LATENTS, TIMES, LABELS)
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-5)
    scaled = predict(tiny(style=BlockStyle(use_shift=False)), LATENTS, TIMES, LABELS)
    assert np.all(np.isfinite(scaled)) and np.any(np.abs(scaled - expected) > 1e-3)
    rough = predict(tiny(dtype=jnp.bfloat16), LATENTS, TIMES, LABELS)
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - expected).mean() < 0.02 * np.abs(expected).mean()


def test_initial_distribution_of_every_parameter():
    def make():
        config = dataclasses.replace(
            TINY, hidden_size=64, latent_shape=(4, 6, 16), style=BlockStyle(use_qk_norm=True)
        )
        return LightningDiT(config, dtype=jnp.float32, rngs=nnx.Rngs(jax.random.key(0)))

    definition, _, _ = split(abstract(make), nnx.Param, Buffer)
    _, parameters, buffers = jax.jit(lambda: (0, *split(make(), nnx.Param, Buffer)[1:]))()
    assert set(buffers) == {"position_table", "time_embedding"}
    model = definition.merge(parameters, buffers)
    seen = set()
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        *_, layer, leaf = path
        name, values = ".".join(map(str, path)), np.asarray(variable[...])
        if leaf == "scale":
            group = "gain"
            assert np.all(values == 1), name
        elif leaf == "bias" or path[0] == "output" or layer == "modulation":
            group = "zero"
            assert not np.any(values), name
        elif name == "label_embedding.table" or path[0] == "time_embedding":
            group = "normal"
            assert values.std() == pytest.approx(0.02, rel=0.05), name
            assert np.abs(values).max() > 0.05, name
        else:
            group = "uniform"
            fan_in, fan_out = values.shape[-2:]
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.98 * bound < np.abs(values).max() <= bound, name
            # Five standard errors of a standard deviation.
            spread = 5 * bound / np.sqrt(3) * np.sqrt(0.2 / values.size)
            assert abs(values.std() - bound / np.sqrt(3)) < spread, name
        seen.add((group, layer, leaf))
    assert {layer for group, layer, _ in seen if group == "uniform"} == {
        "projection",
        "qkv",
        "out",
        "gate_up",
        "down",
    }


def test_sampling_is_guided_by_the_rule_of_every_denoiser():
    model, guide = tiny(), tiny(depth=1)
    t, labels = jnp.float32(0.5), jnp.array([1, 2])

    @jax.jit
    def guided(model, guide, t):
        velocity, weaker = ((lambda *inputs, m=m: m(*inputs).prediction) for m in (model, guide))
        rule = {"scale": 1.5, "interval": (0.4, 0.5)}
        return [
            velocity(LATENTS, jnp.full(2, t), labels),
            velocity(LATENTS, jnp.full(2, t), jnp.full(2, 1000)),
            weaker(LATENTS, jnp.full(2, t), labels),
            classifier_free(velocity, labels, model.null_label, **rule)(LATENTS, t),
            autoguidance(velocity, weaker, labels, **rule)(LATENTS, t),
        ]

    plain, null, other, free, auto = guided(model, guide, t)
    np.testing.assert_allclose(free, null + 1.5 * (plain - null), rtol=0, atol=1e-5)
    np.testing.assert_allclose(auto, other + 1.5 * (plain - other), rtol=0, atol=1e-5)
    plain, *_, free, auto = guided(model, guide, jnp.float32(0.51))
    np.testing.assert_array_equal(free, plain)
    np.testing.assert_array_equal(auto, plain)
