import json

import pytest

from rae_jax.checkpointing.experiment import (
    open_workdir,
    read_experiment,
    require_experiment,
)

CONFIG = {"seed": 0, "model": {"width": 8, "sizes": (1, 2)}, "duration": {"steps": 10}}


def test_a_new_folder_notes_its_settings(tmp_path):
    folder = open_workdir(tmp_path / "runs" / "a", "stage1", CONFIG)
    assert folder.is_absolute()
    assert read_experiment(folder) == ("stage1", json.loads(json.dumps(CONFIG)))
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_the_same_settings_go_on(tmp_path):
    open_workdir(tmp_path, "stage1", CONFIG)
    open_workdir(tmp_path, "stage1", CONFIG)


def test_settings_that_may_change_are_noted_anew(tmp_path):
    open_workdir(tmp_path, "stage1", CONFIG)
    longer = {**CONFIG, "duration": {"steps": 20, "unit": "step"}, "seed": 1}
    open_workdir(tmp_path, "stage1", longer, may_change={"duration", "seed"})
    assert read_experiment(tmp_path)[1]["duration"] == {"steps": 20, "unit": "step"}


def test_other_settings_are_listed_with_both_values(tmp_path):
    open_workdir(tmp_path, "stage1", CONFIG)
    other = {"seed": 0, "model": {"width": 16, "sizes": [1, 2], "new": True}, "durations": 1}
    with pytest.raises(ValueError) as error:
        open_workdir(tmp_path, "stage1", other, may_change={"duration"})
    text = str(error.value)
    assert "model.width: 8 there, 16 now" in text
    assert "model.new: (absent) there, True now" in text
    assert "durations: (absent) there, 1 now" in text
    assert "duration.steps" not in text
    assert "seed" not in text
    assert "another --workdir" in text
    assert read_experiment(tmp_path)[1]["model"]["width"] == 8


def test_settings_that_came_later_had_their_defaults(tmp_path):
    open_workdir(tmp_path, "stage1", CONFIG)
    later = {**CONFIG, "new": {"width": 4}}
    require_experiment(tmp_path, "stage1", later, defaults=later)
    with pytest.raises(ValueError, match=r"new.width: 4 there, 5 now"):
        open_workdir(tmp_path, "stage1", {**CONFIG, "new": {"width": 5}}, defaults=later)
    open_workdir(tmp_path, "stage1", later, defaults=later)
    assert read_experiment(tmp_path)[1]["new"] == {"width": 4}
    with pytest.raises(ValueError, match=r"new.width: 4 there, \(absent\) now"):
        open_workdir(tmp_path, "stage1", CONFIG, defaults=CONFIG)


def test_another_kind_of_run_is_refused(tmp_path):
    open_workdir(tmp_path, "stage1", CONFIG)
    with pytest.raises(ValueError, match="run of kind 'stage1', not 'stage2'"):
        open_workdir(tmp_path, "stage2", CONFIG)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*absent"):
        read_experiment(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="it has no config.json"):
        read_experiment(tmp_path)


def test_a_damaged_settings_file_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"kind": "stage1"')
    with pytest.raises(ValueError, match="config.json is damaged"):
        open_workdir(tmp_path, "stage1", CONFIG)


def test_a_run_without_results_may_be_set_up_anew(tmp_path):
    results = ("checkpoints/*",)
    open_workdir(tmp_path, "stage1", CONFIG, results=results)
    (tmp_path / "checkpoints").mkdir()
    open_workdir(tmp_path, "stage1", {**CONFIG, "seed": 1}, results=results)
    assert read_experiment(tmp_path)[1]["seed"] == 1
    (tmp_path / "checkpoints" / "3").mkdir()
    with pytest.raises(ValueError, match="seed: 1 there, 2 now"):
        open_workdir(tmp_path, "stage1", {**CONFIG, "seed": 2}, results=results)
    assert read_experiment(tmp_path)[1]["seed"] == 1


def test_a_run_of_another_kind_is_refused_even_without_results(tmp_path):
    open_workdir(tmp_path, "stage1", CONFIG, results=("*.npz",))
    with pytest.raises(ValueError, match="run of kind 'stage1', not 'samples'"):
        open_workdir(tmp_path, "samples", CONFIG, results=("*.npz",))


def test_the_check_alone_writes_nothing(tmp_path):
    require_experiment(tmp_path / "new", "stage1", CONFIG)
    assert not (tmp_path / "new").exists()
    open_workdir(tmp_path, "stage1", CONFIG)
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        require_experiment(tmp_path, "stage1", {**CONFIG, "seed": 1})
