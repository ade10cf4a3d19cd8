"""The counts against what a compiled sampler really evaluates."""

import ast
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from rae_jax import build
from rae_jax.configuration.schema import GuidanceConfig, SamplerConfig, TransportConfig, parse
from rae_jax.diffusion.evaluations import evaluation_times, evaluations
from rae_jax.diffusion.flow import Flow
from rae_jax.diffusion.guidance import Guidance
from rae_jax.diffusion.ode import METHODS
from rae_jax.diffusion.paths import LinearPath
from rae_jax.diffusion.sampler import Sampler
from rae_jax.diffusion.sde import Process
from rae_jax.diffusion.time_grids import time_grid
from tests.diffusion.denoisers import Counted

LABELS = jnp.array([3, 1])
GRID = tuple(map(float, time_grid(9, 1.7)))
CASES = {
    "unguided": (Flow(), Guidance(), ()),
    "midpoint": (Flow(method="midpoint"), Guidance("classifier_free", 2.0, (0.3, 0.8)), ()),
    "rk4": (Flow(method="rk4"), Guidance("classifier_free", 2.0, (0.0, 0.5)), ()),
    "scale 1": (Flow(), Guidance("classifier_free", 1.0), ()),
    "always": (Flow(), Guidance("classifier_free", 1.5), ()),
    "interval": (Flow(), Guidance("classifier_free", 1.5, (0.3, 0.8)), ()),
    "autoguidance": (Flow(), Guidance("autoguidance", 1.5, (0.3, 0.8)), ()),
    "shared": (Flow(), Guidance(), (0, 3, 6)),
    "shared, guided": (Flow(), Guidance("classifier_free", 1.5), (0, 2, 4, 6)),
    "shared, interval": (Flow(), Guidance("autoguidance", 1.5, (0.3, 0.8)), (0, 3, 5)),
    "stochastic": (Process(LinearPath()), Guidance("classifier_free", 1.5, (0.3, 0.8)), ()),
    "stochastic heun": (Process(LinearPath(), method="heun", last_step="none"), Guidance(), ()),
}


@pytest.mark.parametrize("name", CASES)
def test_counts_are_those_of_the_compiled_program(name):
    integrator, guidance, steps = CASES[name]
    sampler = Sampler((1, 2, 3), GRID, integrator, guidance, steps)
    model, guide = Counted(), Counted(width=3, gain=0.5)
    autoguided = guidance.method == "autoguidance"
    inputs = jax.random.key(0), jnp.arange(2), LABELS
    extra = {"guide": guide} if autoguided else {}
    sample = jax.jit(lambda *inputs: sampler(model, *inputs, **extra))
    jax.block_until_ready(sample(*inputs))
    found = evaluations(sampler)
    kind = "label" if autoguided else "null"
    references = model if kind == "null" else guide
    expected = {model: {}, guide: {}}
    parts = {"head": (found.wanted, found.reference)}
    parts["backbone"] = found.wanted_backbone, found.reference_backbone
    for part, (wanted, reference) in (
        parts if steps else {"whole": (found.wanted, found.reference)}
    ).items():
        expected[model][part, "label", 2] = wanted
        expected[references][part, kind, 2] = reference
    for counted, calls in expected.items():
        assert counted.counted() == {call: count for call, count in calls.items() if count}


def test_the_numbers_themselves():
    def counts(name):
        found = evaluations(Sampler((1, 1, 1), GRID, *CASES[name]))
        return found.wanted, found.reference, found.wanted_backbone, found.reference_backbone

    assert counts("unguided") == (8, 0, 8, 0)
    assert counts("scale 1") == (8, 0, 8, 0)
    assert counts("always") == (8, 8, 8, 8)
    # Times 1, 0.92, 0.84, 0.74, 0.63, 0.51, 0.36, 0.2 and the end.
    assert counts("interval") == counts("autoguidance") == (8, 4, 8, 4)
    assert counts("shared") == (8, 0, 3, 0)
    # Steps 3 to 6 are guided, the state is computed in steps 0, 3 and 5.
    assert counts("shared, interval") == (8, 4, 3, 2)
    assert counts("stochastic heun") == (16, 0, 16, 0)


def test_adaptive_steps_cannot_be_told():
    with pytest.raises(ValueError, match="depends on the denoiser"):
        evaluation_times(Sampler((1, 1, 1), GRID, Flow(method="dopri5")))


PAGE = pathlib.Path(__file__).parents[2] / "docs" / "sampling.md"
ROW = re.compile(r"^\| `?([^|`]*)`? \| ([\d +]+) \| ([\d +]+) \|$", re.MULTILINE)


def settings(text):
    """Sections of sampler and guidance from "guidance.scale=1.5 sampler.mode=sde"."""
    values = {"sampler": {}, "guidance": {}}
    for setting in text.split():
        name, value = setting.split("=")
        section, key = name.split(".")
        literal = re.match(r"[\d(]", value)
        values[section][key] = ast.literal_eval(value) if literal else value
    if values["guidance"].get("method") == "autoguidance":
        values["guidance"]["checkpoint"] = "runs/guide"
    sections = SamplerConfig, GuidanceConfig
    return [parse(cls, part) for cls, part in zip(sections, values.values(), strict=True)]


def upstream(sampler, guidance):
    """(denoiser, guide) of the published program: rows of its batches per image."""
    nodes = len(METHODS[sampler.method].nodes)
    count = (sampler.num_steps - 1) * nodes
    if sampler.mode == "sde":
        # Velocity and score each take an evaluation, in the last step too.
        count = 2 * (count + 1)
    if guidance.method == "none" or guidance.scale == 1:
        return (count,)
    # All rows are there twice, at all times, whether their second half is used or not.
    return (2 * count,) if guidance.method == "classifier_free" else (2 * count, 2 * count)


def test_the_table_of_the_guide():
    shape = (16, 16, 768)
    transport = build.flow_matching(TransportConfig(), shape)
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) >= 10
    for text, ours, theirs in rows:
        sampler, guidance = settings("" if text == "the defaults" else text)
        found = evaluations(build.sampler(transport, shape, sampler, guidance))
        assert [int(n) for n in ours.split("+")] == [
            n for n in (found.wanted, found.reference) if n
        ], text
        assert tuple(int(n) for n in theirs.split("+")) == upstream(sampler, guidance), text
