"""Filling modules from files and writing them back: strictness, layout, placement, memory."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from rae_jax.layers.functional import Buffer, abstract
from rae_jax.sharding.mesh import make_mesh
from rae_jax.weights import convert
from rae_jax.weights.convert import WeightError
from rae_jax.weights.readers import read_tensors
from rae_jax.weights.table import FUSED_LINEAR, LINEAR, Rule, WeightTable, conv_patch, squeeze
from rae_jax.weights.torch_files import write_torch
from rae_jax.weights.writers import write_tensors


class Small(nnx.Module):
    """One leaf of every sort that rows know: stacked, fused, reshaped, optional, without axes."""

    def __init__(self):
        self.layers = nnx.Param(jnp.zeros((3, 4, 8)))
        self.fused = nnx.Param(jnp.zeros((4, 6)))
        self.patch = nnx.Param(jnp.zeros((12, 5)))
        self.token = nnx.Param(jnp.zeros(7))
        self.gain = nnx.Param(jnp.zeros(()))
        self.table = Buffer(jnp.arange(6, dtype=jnp.float32) ** 2)


TABLE = WeightTable(
    rules=(
        Rule("layer.{i}.weight", "layers", LINEAR, first_layer=2),
        Rule(("q", "k"), "fused", FUSED_LINEAR),
        Rule("patch", "patch", conv_patch(2)),
        Rule("token", "token", squeeze(2)),
        Rule("gain", "gain"),
        Rule("table", "table"),
    ),
    ignored_source=(r"unused\..*",),
    optional_target=("table",),
)
SHAPES = {
    **{f"layer.{i}.weight": (8, 4) for i in (2, 3, 4)},
    "q": (3, 4),
    "k": (3, 4),
    "patch": (5, 3, 2, 2),
    "token": (1, 1, 7),
    "gain": (),
    "table": (6,),
}


def entries(**changes):
    rng = np.random.default_rng(0)
    made = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in SHAPES.items()}
    made |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in made.items() if value is not None}


def loaded(tensors, **options):
    return convert.load(TABLE, tensors, abstract(Small), **options)


def assert_same_bits(written, read):
    assert set(written) == set(read)
    for key, array in written.items():
        assert (array.dtype, array.shape) == (read[key].dtype, read[key].shape), key
        assert array.tobytes() == read[key].tobytes(), key


def write(kind, path, tensors):
    file = path / f"model.{kind}"
    (write_torch if kind == "pt" else write_tensors)(file, tensors)
    return read_tensors(file)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_what_is_read_is_written_again_bit_for_bit(tmp_path, kind):
    read = write(kind, tmp_path, entries())
    assert_same_bits(convert.export(TABLE, loaded(read)), read)


def test_values_stand_where_the_rows_say():
    tensors = entries()
    module = loaded(tensors)
    for layer in range(3):
        np.testing.assert_array_equal(module.layers[layer], tensors[f"layer.{layer + 2}.weight"].T)
    np.testing.assert_array_equal(module.fused[:, 3:], tensors["k"].T)
    np.testing.assert_array_equal(module.patch[6 + 3 + 1], tensors["patch"][:, 1, 1, 1])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_any_floating_dtype_becomes_that_of_the_leaf(dtype):
    tensors = {key: value.astype(dtype) for key, value in entries().items()}
    module = loaded(tensors)
    assert module.layers.dtype == jnp.float32
    written = convert.export(TABLE, module)
    np.testing.assert_array_equal(written["gain"], tensors["gain"].astype(np.float32))
    assert convert.differences(written.items(), tensors) == []


def test_every_mismatch_of_every_sort_is_listed_at_once():
    tensors = entries(
        layer__3__weight=None,
        q=np.zeros((4, 3), np.float32),
        patch=np.full((5, 3, 2, 2), np.nan, np.float32),
        token=np.zeros((1, 1, 7), np.int64),
        gain=np.float64(1e300).reshape(()),
        surplus__a=np.zeros(2, np.float32),
        surplus__b=np.zeros((2, 3), np.int64),
        unused__a=np.full(3, np.nan, np.float32),
    )
    module = abstract(Small)
    with pytest.raises(WeightError) as error:
        convert.load(TABLE, tensors, module)
    assert str(error.value).splitlines() == [
        "7 mismatches between file and model:",
        "  entry gain holds NaN or Inf (as float32)",
        "  entry patch holds NaN or Inf (as float32)",
        "  entry q has shape (4, 3), the model wants (3, 4) (for fused of shape (4, 6))",
        "  entry token has dtype int64, the model wants float32 (for token)",
        "  missing entry layer.3.weight (8, 4) (for layers[1])",
        "  surplus entry surplus.a (2,)",
        "  surplus entry surplus.b (2, 3)",
    ]
    assert isinstance(module.layers.get_value(), jax.ShapeDtypeStruct)


def test_a_module_stays_as_it_was_if_the_last_entry_is_not_finite():
    module = Small()
    with pytest.raises(WeightError, match="^1 mismatches .*\n  entry table holds NaN or Inf"):
        convert.load(TABLE, entries(table=np.full(6, np.inf, np.float32)), module)
    assert all((np.asarray(module.layers) == 0).ravel())


def test_rows_and_leaves_must_be_the_same():
    rules = (*TABLE.rules[1:], Rule("other", "other.leaf"))
    with pytest.raises(WeightError) as error:
        convert.load(WeightTable(rules), entries(other=np.ones(2, np.float32)), abstract(Small))
    lines = str(error.value).splitlines()[1:]
    assert lines[:2] == ["  no row fills layers", "  surplus entry layer.2.weight (8, 4)"]
    assert lines[-1] == "  the model has no other.leaf (row other)"


def test_the_report_names_every_entry_and_every_leaf():
    tensors = entries(table=None, unused__a=np.zeros(3, np.float16))
    report = convert.report(TABLE, tensors, abstract(Small))
    assert report.problems == ()
    shown = {
        row.source: (row.header and row.header.shape, row.target, row.shape, row.transform)
        for row in report.rows
    }
    assert shown["layer.4.weight"] == ((8, 4), "layers[2]", (4, 8), "transpose")
    assert shown["k"] == ((3, 4), "fused", (4, 6), "concatenate outputs, transpose")
    assert shown["unused.a"] == ((3,), "", (), "not used")
    assert shown[""] == (None, "table", (6,), "constructed")
    assert set(shown) == {*tensors, ""}


def test_arrays_go_straight_to_their_shards():
    mesh = make_mesh(1, 8, 1)
    asked = []

    def place(path, leaf):
        asked.append((path, tuple(leaf.shape)))
        cut = PartitionSpec(None, None, "fsdp") if path == "layers" else PartitionSpec()
        return NamedSharding(mesh, cut) if path != "gain" else None

    tensors = entries()
    module = loaded(tensors, place=place)
    assert ("layers", (3, 4, 8)) in asked and len(asked) == 6
    shards = module.layers.get_value().addressable_shards
    assert [shard.data.shape for shard in shards] == [(3, 4, 1)] * 8
    assert len(module.token.get_value().sharding.device_set) == 8
    assert len(module.gain.get_value().sharding.device_set) == 1
    assert_same_bits(convert.export(TABLE, module), tensors)


def test_create_computes_what_the_file_leaves_out():
    tensors = entries(table=None)
    module = convert.create(TABLE, tensors, Small)
    np.testing.assert_array_equal(module.table[...], np.arange(6) ** 2)
    assert_same_bits(convert.export(TABLE, module), tensors | {"table": np.asarray(module.table)})
    assert isinstance(loaded(tensors).table.get_value(), jax.ShapeDtypeStruct)


def test_arrays_do_not_stand_on_the_memory_of_the_file(tmp_path):
    read = write("pt", tmp_path, {"table": np.ones(2**16, np.float32)})
    table = WeightTable((Rule("table", "table"),))

    class One(nnx.Module):
        def __init__(self):
            self.table = nnx.Param(jnp.zeros(2**16))

    module = convert.load(table, read, abstract(One))
    assert not np.shares_memory(np.asarray(module.table[...]), read["table"])


def test_differences_are_found_to_the_last_bit():
    tensors = entries()
    written = {key: value.copy() for key, value in tensors.items()}
    assert convert.differences(written.items(), tensors) == []
    written["gain"] = np.nextafter(written["gain"], np.float32(9)).reshape(())
    written["token"] = written["token"].reshape(7)
    written["new"] = np.zeros(1, np.float32)
    tensors["q"] = np.where(tensors["q"] == 0, 0, tensors["q"])
    assert convert.differences(written.items(), tensors) == [
        "token differs",
        "gain differs",
        "new is not in the file",
    ]
    zero = {"a": np.float32(0).reshape(1)}
    assert convert.differences([("a", -zero["a"])], zero) == ["a differs"]
