"""Files, metrics and checkpoints in a bucket, over a server on this machine."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rae_jax import files
from rae_jax.checkpointing.experiment import open_workdir, read_experiment, require_experiment
from rae_jax.checkpointing.manager import CheckpointManager
from rae_jax.checkpointing.partial_restore import latest_step, read_arrays, restore_entries
from rae_jax.files import absolute, any_path, local_copy, open_to_append, remove_folder, replacing
from rae_jax.monitoring.writers import make_writers
from rae_jax.sampling.shards import find_shards, read_blocks, read_images, write_shard

BASE = "gs://test/files"


def test_an_object_appears_only_when_it_is_complete(bucket):
    path = any_path(f"{BASE}/appears/note.bin")
    content = bytes(range(256)) * 100 + b"\r\n"
    with replacing(path) as partial:
        partial.write_bytes(content)
        assert bucket.names("test/files/appears") == []
    with pytest.raises(OSError, match="disk full"), replacing(path) as partial:
        partial.write_bytes(b"half")
        raise OSError("disk full")
    assert path.read_bytes() == content
    assert bucket.names("test/files/appears") == ["files/appears/note.bin"]
    with local_copy(path) as copy:
        assert copy.read_bytes() == content
    assert not copy.exists()


def test_what_another_process_writes_is_seen(bucket):
    folder = absolute(f"{BASE}/seen")
    with replacing(folder / "a") as partial:
        partial.write_text("a")
    assert [path.name for path in folder.iterdir()] == ["a"]
    bucket.put("test", "files/seen/b", b"b", {})
    assert [path.name for path in sorted(folder.glob("*"))] == ["a", "b"]
    remove_folder(folder)
    assert not folder.exists()
    remove_folder(folder)


def test_added_lines_are_uploaded_at_intervals_and_at_the_end(bucket, monkeypatch):
    now = 100.0
    monkeypatch.setattr(files.time, "monotonic", lambda: now)
    path = any_path(f"{BASE}/log.txt")
    for first, last in (("one\n", "two\n"), ("three\n", "four\n")):
        before = bucket.read("test/files/log.txt").decode() if path.exists() else ""
        file = open_to_append(path)
        file.write(first)
        file.flush()
        file.write(last)
        file.flush()
        assert path.read_text() == before + first
        now += 11
        file.flush()
        assert path.read_text() == before + first + last
        file.write("end\n")
        file.close()
        assert path.read_text() == before + first + last + "end\n"


def test_metrics_and_pictures(bucket):
    folder = f"{BASE}/metrics"
    for resume_step, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        (writer,) = make_writers(["jsonl"], folder, resume_step)
        for step in steps:
            writer.scalars(step, {"loss": 10.0 * resume_step + step})
        writer.images(4, "picture", np.full((2, 3, 3), step, np.uint8))
        writer.close()
    lines = bucket.read("test/files/metrics/metrics.jsonl").decode().splitlines()
    found = [(line["step"], line["loss"]) for line in map(json.loads, lines)]
    assert found == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0)]
    with any_path(f"{folder}/images/picture_00000004.png").open("rb") as file:
        assert np.asarray(Image.open(file)).tolist() == [[[4, 4, 4]] * 3] * 2


def test_tensorboard_writes_its_events_there(bucket):
    (writer,) = make_writers(["tensorboard"], f"{BASE}/events")
    writer.scalars(1, {"first": 0.5})
    (name,) = bucket.names("test/files/events/tensorboard")
    uploads = bucket.get("test", name, {}).generation
    writer.scalars(2, {"second": 0.5})
    assert bucket.get("test", name, {}).generation == uploads
    writer.close()
    content = bucket.read(f"test/{name}")
    assert content.index(b"first") < content.index(b"second")


def test_the_note_of_a_run(bucket):
    folder = open_workdir(f"{BASE}/note", "toy", {"seed": 0}, results=("checkpoints/*",))
    assert read_experiment(folder) == ("toy", {"seed": 0})
    require_experiment(folder, "toy", {"seed": 1}, results=("checkpoints/*",))
    bucket.put("test", "files/note/checkpoints/1/a", b"", {})
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        require_experiment(folder, "toy", {"seed": 1}, results=("checkpoints/*",))
    with pytest.raises(FileNotFoundError, match="gs://test/files/absent"):
        read_experiment(f"{BASE}/absent")


def state(step: int) -> dict:
    return {"params": {"w": jnp.full((4, 3), step, jnp.float32)}, "step": jnp.int32(step)}


@pytest.mark.faults
def test_checkpoints_are_whole_or_not_there(bucket):
    directory = f"{BASE}/checkpoints"
    with CheckpointManager(directory) as manager:
        for step in (1, 2, 3):
            manager.save(step, state(step), {"note": step})
    folder = "test/files/checkpoints"
    # Step 3 as a killed save leaves it, without the mark of completeness; step 2 damaged.
    bucket.delete("test", "files/checkpoints/3/commit_success.txt", {})
    assert latest_step(directory) == 2
    record = bucket.read(f"{folder}/2/metadata/metadata")
    bucket.put("test", "files/checkpoints/2/metadata/metadata", record[:-9], {})
    with CheckpointManager(directory, keep_last=3) as manager:
        assert bucket.names(f"{folder}/3") == []
        assert manager.steps() == [2]
        bucket.put("test", "files/checkpoints/2/metadata/metadata", record, {})
        restored = manager.restore_latest(jax.eval_shape(lambda: state(0)))
        assert restored is not None and restored.step == 2 and restored.metadata == {"note": 2}
        manager.save(4, state(4), {})
    record = bucket.read(f"{folder}/4/metadata/metadata")
    bucket.put("test", "files/checkpoints/4/metadata/metadata", record[:-9], {})
    with CheckpointManager(directory, keep_last=3) as manager:
        restored = manager.restore_latest(jax.eval_shape(lambda: state(0)))
        assert restored is not None and restored.step == 2
        np.testing.assert_array_equal(restored.state["params"]["w"], 2.0)
        manager.save(5, state(5), {})
    with CheckpointManager(directory, keep_last=3) as manager:
        assert manager.steps() == [2, 5]
    assert bucket.names(f"{folder}/4/") == []
    assert "files/checkpoints/damaged-4/metadata/metadata" in bucket.names(f"{folder}/damaged-4/")
    step, entries = restore_entries(directory, {"params": {"w": jnp.zeros((4, 3))}})
    assert step == 5
    np.testing.assert_array_equal(entries["params"]["w"], 5.0)
    np.testing.assert_array_equal(read_arrays(directory, 2)["params.w"], 2.0)


def test_shards_of_samples(bucket):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    folder = f"{BASE}/shards"
    write_shard(folder, 0, images[:3])
    write_shard(folder, 3, images[3:])
    bucket.put("test", "files/shards/00000005-00000007.npy", b"cut short", {})
    shards = find_shards(folder, (4, 4, 3))
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(shards))), images)
    np.testing.assert_array_equal(read_images(shards, np.array([4, 0])), images[[4, 0]])


def test_a_bucket_that_is_not_there_is_told_at_once(bucket):
    with pytest.raises(OSError, match="gs://absent cannot be listed .* look at its name"):
        open_workdir("gs://absent/run", "toy", {})
