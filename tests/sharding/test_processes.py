import numpy as np
import pytest

from rae_jax.sharding.mesh import make_mesh
from rae_jax.sharding.processes import agreed, global_batch, is_main_process, wait_for_all


def test_batch_is_cut_over_data_and_fsdp():
    host = {
        "images": np.arange(8 * 12, dtype=np.uint8).reshape(8, 2, 2, 3),
        "labels": np.arange(8, dtype=np.int32),
        "index": np.arange(8, dtype=np.int64),
    }
    batch = global_batch(make_mesh(data=2, fsdp=2, tensor=2), host)
    assert batch["images"].sharding.shard_shape(batch["images"].shape) == (2, 2, 2, 3)
    for name in host:
        np.testing.assert_array_equal(batch[name], host[name])


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"multiple of data x fsdp = 8, got 6 in 'labels'"):
        global_batch(make_mesh(), {"labels": np.zeros(6, np.int32)})


def test_one_process_is_the_main_one_and_agrees_with_itself():
    assert is_main_process()
    assert agreed(True)
    assert not agreed(False)
    wait_for_all("test")
