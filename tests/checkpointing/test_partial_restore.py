import os

import jax
import jax.numpy as jnp
import pytest

from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.checkpointing.partial_restore import latest_step, read_metadata, restore_entries
from rae_jax.checkpointing.record import CheckpointMismatch
from rae_jax.sharding.mesh import make_mesh
from rae_jax.sharding.rules import tree_shardings
from tests.checkpointing.states import assert_same_bits, make_state


@pytest.fixture
def folder(tmp_path):
    with CheckpointManager(tmp_path) as manager:
        for step in (1, 2):
            manager.save(step, make_state(step), {"seen": step})
    return tmp_path


def _shapes(*names):
    state = jax.eval_shape(lambda: make_state(0))
    return {name: getattr(state, name) for name in names}


def test_only_the_entries_asked_for_come_back(folder):
    step, entries = restore_entries(folder, _shapes("ema", "buffers", "key"))
    assert step == 2
    expected = make_state(2)
    assert_same_bits(
        entries, {"ema": expected.ema, "buffers": expected.buffers, "key": expected.key}
    )


def test_an_older_step(folder):
    step, entries = restore_entries(folder, _shapes("params"), step=1)
    assert step == 1
    assert_same_bits(entries, {"params": make_state(1).params})
    assert read_metadata(folder) == {"seen": 2}
    assert read_metadata(folder, step=1) == {"seen": 1}


def test_restoring_onto_a_mesh(folder):
    shapes = _shapes("ema")
    shardings = tree_shardings(shapes, make_mesh(fsdp=8, data=1), min_size=1)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    ema = restore_entries(folder, placed)[1]["ema"]
    kernel = ema["blocks"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    assert_same_bits(ema, make_state(2).ema)


def test_missing_folder_or_step(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint folder .*absent"):
        restore_entries(tmp_path / "absent", _shapes("ema"))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 9 .*it has \[1, 2\]"):
        read_metadata(folder, step=9)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        read_metadata(tmp_path / "empty")
    assert not (tmp_path / "absent").exists()


def test_the_latest_step_is_that_which_is_restored(folder, tmp_path):
    assert latest_step(folder) == restore_entries(folder, _shapes("ema"))[0] == 2
    with pytest.raises(FileNotFoundError, match="no checkpoint folder .*absent"):
        latest_step(tmp_path / "absent")


def test_entries_of_another_model(folder):
    with pytest.raises(CheckpointMismatch, match="has no entry teacher; it has"):
        restore_entries(folder, {"teacher": {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}})
    with pytest.raises(CheckpointMismatch, match=r"ema.scale: bfloat16\[5\]|ema.w: absent"):
        restore_entries(folder, {"ema": {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}})


def test_a_damaged_newest_checkpoint_is_passed_over_unless_asked_for(folder):
    files = [path for path in (folder / "2" / "state").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    whole = largest.read_bytes()
    os.truncate(largest, 50)
    with pytest.raises(ValueError, match="checkpoint .*/2 cannot be read"):
        restore_entries(folder, _shapes("params", "ema", "optimizer_state"), step=2)
    assert restore_entries(folder, _shapes("params", "ema", "optimizer_state"))[0] == 1
    largest.write_bytes(whole)
    (folder / "2" / "metadata" / "metadata").write_text("{}")
    with pytest.raises(ValueError, match="altered"):
        read_metadata(folder)
