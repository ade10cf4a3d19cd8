"""`pt_inception-2015-12-05`, the FID Inception as pytorch-fid and torch-fidelity publish it."""

from flax import nnx

from rae_jax.layers.functional import abstract
from rae_jax.models.auxiliary.inception import Inception
from rae_jax.weights.table import CONV_2D, LINEAR, Rule, WeightTable

_NORM = {
    "weight": "scale",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "variance",
}


def inception_table() -> WeightTable:
    """Rows of `Inception`, whose layers are called as the file's, in lower case."""
    leaves = nnx.to_flat_state(nnx.state(abstract(Inception)))
    paths = [".".join(map(str, path[:-1])) for path, _ in leaves if path[-1] == "kernel"]
    rules = [Rule("fc.weight", "fc_kernel", LINEAR), Rule("fc.bias", "fc_bias")]
    for path in paths:
        source = path[0].upper() + path[1:]
        rules.append(Rule(f"{source}.conv.weight", f"{path}.kernel", CONV_2D))
        rules += [Rule(f"{source}.bn.{name}", f"{path}.{leaf}") for name, leaf in _NORM.items()]
    # Counts of training steps; and the auxiliary classifier that some copies of the file hold.
    return WeightTable(tuple(rules), ignored_source=(r".*\.num_batches_tracked", r"AuxLogits\..*"))
