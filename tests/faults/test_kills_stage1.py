import pytest

from tests.faults.kills import FIRST_SAVE, SAVE, START, STEP, kill_until_struck

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_stage_1_survives_kills_at_any_moment(tmp_path):
    struck = kill_until_struck(
        "stage1", tmp_path, seed=1, quotas={FIRST_SAVE: 4, SAVE: 9, STEP: 6, START: 3}
    )
    assert sum(struck.values()) >= 22


def test_stage_1_with_a_discriminator_survives_kills_in_every_phase(tmp_path):
    struck = kill_until_struck(
        "gan", tmp_path, seed=2, quotas={FIRST_SAVE: 1, SAVE: 4, STEP: 4, START: 1}
    )
    assert sum(struck.values()) >= 10
