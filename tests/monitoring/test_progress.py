import time

import tqdm.std

from rae_jax.monitoring import progress


def test_a_log_file_gets_few_lines(capsys):
    with progress.progress_bar(1000, done=200, description="training") as bar:
        for _ in range(800):
            bar.update(1)
    text = capsys.readouterr().err
    assert text.count("training") <= 3
    assert "1000/1000" in text


def test_only_the_main_process_draws(capsys, monkeypatch):
    monkeypatch.setattr(progress, "is_main_process", lambda: False)
    with progress.progress_bar(3) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""


def test_a_clock_that_is_put_back_does_not_stop_the_bar(monkeypatch, capsys):
    monkeypatch.setattr(tqdm.std, "time", lambda: -1e9)
    now = iter(range(0, 10**6, 100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    with progress.progress_bar(4) as bar:
        for _ in range(4):
            monkeypatch.setattr(tqdm.std, "time", lambda: -2e9)
            bar.update()
    lines = capsys.readouterr().err
    assert all(f"{step}/4" in lines for step in range(5))
    assert "-" not in lines
