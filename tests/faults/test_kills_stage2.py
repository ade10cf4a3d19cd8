import pytest

from tests.faults.kills import FIRST_SAVE, SAVE, START, STEP, kill_until_struck

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_stage_2_survives_kills_at_any_moment(tmp_path):
    struck = kill_until_struck(
        "stage2", tmp_path, seed=3, quotas={FIRST_SAVE: 4, SAVE: 8, STEP: 6, START: 2}
    )
    assert sum(struck.values()) >= 20
