"""diffusers itself beside the autoencoders of convolutions, through files in both directions."""

import importlib

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from safetensors.numpy import save_file

from tests.golden import recipe

TOLERANCE = 5e-5
FEW = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    # Every example compiles: a smaller failing one would take too long to find.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def theirs(kind, config):
    """Their module of our class `kind`, with recipe weights, and variances above zero."""
    torch, diffusers = importlib.import_module("torch"), importlib.import_module("diffusers")
    module = getattr(diffusers, kind.__name__)(**config).eval()
    drawn = {}
    for key, value in module.state_dict().items():
        named = key + ".weight" if key.endswith("running_var") else key
        if not key.endswith("num_batches_tracked"):
            value = torch.from_numpy(recipe.weight(named, tuple(value.shape)))
        drawn[key] = value
    module.load_state_dict(drawn)
    return module


def read_by_diffusers(kind, folder):
    """Their module of a folder, which holds all its entries and no others."""
    diffusers = importlib.import_module("diffusers")
    module, loading = getattr(diffusers, kind.__name__).from_pretrained(
        folder, output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    return module.eval()


def assert_answers(found, expected):
    for name, values in expected.items():
        atol = TOLERANCE * np.abs(values).max()
        np.testing.assert_allclose(found[name], values, rtol=0, atol=atol, err_msg=name)


def assert_same_entries(tensors, module):
    """Entries by key are those of their module, bit for bit."""
    entries = module.state_dict()
    assert tensors.keys() == entries.keys()
    for key, value in entries.items():
        np.testing.assert_array_equal(np.asarray(tensors[key]), value.numpy(), err_msg=key)


def assert_original_layout(kind, source, to_tensors, folder):
    """A file of ours in the original layout holds their `source`, for them and for us.

    Returns:
        What we read from the folder of diffusers, and from that file.
    """
    diffusers = importlib.import_module("diffusers")
    source.save_pretrained(folder)
    ours, path = kind.from_pretrained(folder), folder / "model.safetensors"
    save_file(to_tensors(ours, "original"), path)
    read = getattr(diffusers, kind.__name__).from_single_file(str(path), config=str(folder))
    assert_same_entries(read.state_dict(), source)
    again = kind.from_single_file(path, config=folder)
    assert_same_entries(to_tensors(again), source)
    return ours, again
