import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest

from rae_jax.checkpointing.entries import entries
from rae_jax.checkpointing.fingerprint import digest
from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.checkpointing.partial_restore import restore_entries
from rae_jax.checkpointing.record import CheckpointMismatch
from rae_jax.sharding.mesh import make_mesh
from rae_jax.sharding.rules import tree_shardings
from tests.checkpointing.states import assert_same_bits, make_state

SHAPES = jax.eval_shape(lambda: make_state(0))
METADATA = {"config": {"optimizer": {"learning_rate": 2e-4}}, "sizes": (1, 2)}


def _write(folder, steps, **options):
    with CheckpointManager(folder, **options) as manager:
        for step in steps:
            manager.save(step, make_state(step), METADATA)


def _largest_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def _flip(path, place, bits=0x10):
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(bytes(content))


def test_a_state_comes_back_bit_for_bit(tmp_path):
    _write(tmp_path, [7])
    with CheckpointManager(tmp_path) as manager:
        restored = manager.restore_latest(SHAPES)
        assert manager.steps() == [7]
    assert restored.step == 7
    assert restored.metadata == json.loads(json.dumps(METADATA))
    assert_same_bits(restored.state, make_state(7))


def test_a_state_may_be_a_dictionary(tmp_path):
    state = {"step": jnp.int32(1), "params": {"w": jnp.ones(3)}, "buffers": {}, "extra": ()}
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, state, {})
        manager.wait()
        assert_same_bits(manager.restore_latest(state).state, state)


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    with CheckpointManager(tmp_path / "new") as manager:
        assert manager.restore_latest(SHAPES) is None
        assert manager.steps() == []


def test_the_newest_and_the_milestones_are_kept(tmp_path):
    _write(tmp_path, range(1, 8), keep_last=2, keep_every=3)
    with CheckpointManager(tmp_path) as manager:
        assert manager.steps() == [3, 6, 7]


def test_donating_right_after_saving_does_no_harm(tmp_path):
    step = jax.jit(lambda w: w + 1, donate_argnums=0)
    state = {"w": jnp.zeros((512, 1024))}
    with CheckpointManager(tmp_path, keep_last=5) as manager:
        for index in range(1, 4):
            manager.save(index, state, {})
            state = {"w": step(state["w"])}
        manager.wait()
        restored = manager.restore_latest(jax.eval_shape(lambda: state))
    assert restored.step == 3
    assert (restored.state["w"] == 2).all()


def test_saving_a_step_again(tmp_path):
    with CheckpointManager(tmp_path) as manager:
        manager.save(5, make_state(5), METADATA)
        manager.save(5, make_state(5), METADATA)
        with pytest.raises(ValueError, match="already holds step 5"):
            manager.save(4, make_state(4), METADATA)
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(ValueError, match="cannot save step 5 .*use another folder"):
            manager.save(5, make_state(5), METADATA)
        manager.restore_latest(SHAPES)
        manager.save(5, make_state(5), METADATA)
        assert manager.steps() == [5]


@pytest.mark.parametrize("sizes", [{"fsdp": 4, "tensor": 2}, {"fsdp": 8}])
def test_restoring_on_another_mesh(tmp_path, sizes):
    def placed(mesh):
        shardings = tree_shardings(SHAPES, mesh, min_size=1)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            SHAPES,
            shardings,
        )

    wide = placed(make_mesh(data=2, fsdp=4))
    state = jax.jit(
        lambda: make_state(3), out_shardings=jax.tree.map(lambda leaf: leaf.sharding, wide)
    )()
    with CheckpointManager(tmp_path) as manager:
        manager.save(3, state, METADATA)
    with CheckpointManager(tmp_path) as manager:
        restored = manager.restore_latest(placed(make_mesh(data=1, **sizes))).state
        alone = manager.restore_latest(SHAPES).state
    kernel = restored.params["blocks"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    assert_same_bits(restored, state)
    assert_same_bits(alone, state)


def _truncate(step_folder):
    os.truncate(_largest_file(step_folder / "state"), 100)


def _flip_data(step_folder):
    path = _largest_file(step_folder / "state")
    _flip(path, path.stat().st_size // 2)


def _flip_record(step_folder):
    path = step_folder / "metadata" / "metadata"
    _flip(path, path.read_bytes().index(b"2]"), bits=1)


def _remove_record(step_folder):
    (step_folder / "metadata" / "metadata").unlink()


def _remove_everything(step_folder):
    for path in sorted(step_folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.long
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "its arrays cannot be read"),
        (_flip_data, "the fingerprint of|cannot be read"),
        (_flip_record, "metadata file was altered"),
        (_remove_record, "its metadata cannot be read"),
        (_remove_everything, "its metadata cannot be read"),
    ],
)
def test_damaged_checkpoints_are_passed_over_and_set_aside(tmp_path, caplog, damage, reason):
    _write(tmp_path, [2, 3, 4], keep_last=3)
    damage(tmp_path / "4")
    (tmp_path / "5").mkdir()
    (tmp_path / "6.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with CheckpointManager(tmp_path) as manager:
        with caplog.at_level(logging.WARNING):
            restored = manager.restore_latest(SHAPES)
        assert restored.step == 3
        assert_same_bits(restored.state, make_state(3))
        warnings = [record.getMessage() for record in caplog.records]
        assert any("/5 is passed over" in warning for warning in warnings)
        said = [warning for warning in warnings if "/4 is passed over" in warning]
        assert re.search(reason, said[0])
        assert (tmp_path / "4").exists()
        # The run goes on and comes to the same step again.
        manager.save(4, make_state(4), METADATA)
        manager.wait()
        assert manager.steps() == [3, 4]
        assert (tmp_path / "damaged-4").exists()
        assert not list(tmp_path.glob("*tmp*"))
    with CheckpointManager(tmp_path) as manager:
        assert_same_bits(manager.restore_latest(SHAPES).state, make_state(4))


@pytest.mark.long
def test_no_flipped_byte_goes_unseen(tmp_path):
    """Whichever file it strikes, the state that comes back is right or is not this one's."""
    _write(tmp_path, [1, 2])
    expected = make_state(2)
    files = [path for path in (tmp_path / "2").rglob("*") if path.is_file()]
    noticed = 0
    for path in files:
        content = path.read_bytes()
        if not content:
            continue
        _flip(path, len(content) // 2)
        with CheckpointManager(tmp_path) as manager:
            restored = manager.restore_latest(SHAPES)
        if restored.step == 1:
            noticed += 1
        else:
            assert_same_bits(restored.state, expected)
        path.write_bytes(content)
    assert noticed >= 3


def test_a_folder_of_damaged_checkpoints_alone_is_not_begun_anew(tmp_path):
    _write(tmp_path, [1, 2])
    _remove_record(tmp_path / "1")
    _truncate(tmp_path / "2")
    message = "2: its arrays cannot be read.*1: its metadata cannot be read.*move them away"
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(ValueError, match=message):
            manager.restore_latest(SHAPES)
        assert manager.steps() == [1, 2]


def test_a_newer_format_is_refused_with_what_differs(tmp_path):
    _write(tmp_path, [1, 2])
    path = tmp_path / "2" / "metadata" / "metadata"
    value = json.loads(path.read_text())
    del value["digest"]
    value |= {"format": 2, "layout": "other"}
    path.write_text(json.dumps({**value, "digest": digest(value)}))
    message = r"(?s)/2 was written by a newer .*format: 2 there, up to 1 here.*layout: there, unkn"
    with CheckpointManager(tmp_path) as manager:
        # The older one, which could be read, is no substitute: what followed it is not lost.
        with pytest.raises(CheckpointMismatch, match=message):
            manager.restore_latest(SHAPES)
    with pytest.raises(CheckpointMismatch, match=message):
        restore_entries(tmp_path, {"ema": SHAPES.ema})


def test_what_came_later_begins_with_its_default(tmp_path):
    state = make_state(3)
    older = {name: tree for name, tree in entries(state).items() if name != "skipped"}
    with CheckpointManager(tmp_path) as manager:
        manager.save(3, older, {})
        manager.wait()
        restored = manager.restore_latest(SHAPES, {"skipped": 7, "step": 9})
        assert_same_bits(restored.state, state.replace(skipped=jnp.int32(7)))
        with pytest.raises(CheckpointMismatch, match=r"skipped: absent != int32\[\]"):
            manager.restore_latest(SHAPES)


def test_what_the_state_has_no_place_for_is_another_model(tmp_path):
    with CheckpointManager(tmp_path) as manager:
        manager.save(3, {**entries(make_state(3)), "discriminator": {"w": jnp.ones(2)}}, {})
        manager.wait()
        with pytest.raises(CheckpointMismatch, match=r"discriminator.w: float32\[2\] != absent"):
            manager.restore_latest(SHAPES)


def test_a_state_of_another_model_is_named_leaf_by_leaf(tmp_path):
    _write(tmp_path, [1])
    other = jax.eval_shape(lambda: make_state(1, width=32))
    other.params["extra"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(CheckpointMismatch) as error:
            manager.restore_latest(other)
    text = str(error.value)
    assert "params.blocks.up.kernel: float32[2,16,64] != float32[2,32,64]" in text
    assert "params.extra: absent != float32[3]" in text
    assert "optimizer_state" in text
    assert "another folder" in text


def test_metadata_must_be_json(tmp_path):
    with CheckpointManager(tmp_path) as manager, pytest.raises(TypeError, match="JSON"):
        manager.save(1, make_state(1), {"config": object()})


@pytest.mark.parametrize("name", ["keep_last", "keep_every"])
def test_what_to_keep_must_be_positive(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        CheckpointManager(tmp_path, **{name: 0})


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    import jax.numpy as jnp
    from rae_jax.checkpointing.manager import CheckpointManager

    manager = CheckpointManager(sys.argv[1])
    manager.save(1, {"w": jnp.ones((256, 256))}, {})
    manager.wait()
    manager.save(2, {"w": jnp.ones((4096, 4096))}, {})
    os.kill(os.getpid(), signal.SIGKILL)
    """
)


def test_a_kill_in_the_middle_of_saving_costs_only_that_save(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, timeout=120
    )
    assert process.returncode == -signal.SIGKILL
    left_over = [path.name for path in tmp_path.iterdir()]
    with CheckpointManager(tmp_path) as manager:
        restored = manager.restore_latest({"w": jax.ShapeDtypeStruct((256, 256), jnp.float32)})
        assert restored.step == 1, left_over
        manager.save(2, restored.state, {})
        manager.wait()
        assert manager.steps() == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
