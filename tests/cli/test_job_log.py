"""A job's log: whole lines, not too many, each of which tells how far it is."""

from __future__ import annotations

import pytest

from rayclf.cli.job_log import JobLog


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_steps_are_told_every_few_seconds_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    log = JobLog(every=10, clock=clock)
    log({"kind": "start", "backbone": "b", "parameters": 1e6, "workers": 1, "strategy": "ddp", "tuning": "full",
         "max_length": 64, "steps": 100})  # fmt: skip
    for step in range(1, 101):
        log({"kind": "step", "step": step, "epoch": 1, "loss": 0.5, "rows": 8, "rows_per_second": 8.0})
        clock.now += 1
    told = [line.split(" ", 2)[2] for line in capsys.readouterr().out.splitlines()]
    assert told[0] == (
        "backbone b (1.0 M parameters), up to 64 tokens a text, full tuning, 1 worker(s), ddp, 100 steps"
    )
    assert told[1] == "step 1/100, 8 rows, epoch 1, loss 0.5000, 8 rows/s"
    assert told[2] == "step 11/100, 88 rows, epoch 1, loss 0.5000, 8 rows/s, 0:01:29 left"
    assert told[-1] == "step 100/100, 800 rows, epoch 1, loss 0.5000, 8 rows/s"
    assert len(told) == 12


def test_units_and_rows_and_lines_without_carriage_returns(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    log = JobLog(every=10, clock=clock)
    log({"kind": "plan", "rows": 10, "units": 1, "done": 0})
    log({"kind": "unit", "rows": 5, "of": 10, "errors": 1, "rows_per_second": 2.5, "seconds_left": 2.0})
    log.progress("rows", 0, 50)
    clock.now = 10.0
    log.progress("rows", 20, 50)
    log.say("two\rlines\nare one")
    out = capsys.readouterr().out
    assert "\r" not in out
    told = [line.split(" ", 2)[2] for line in out.splitlines()]
    assert told == [
        "10 rows in 1 unit, 0 rows done before",
        "rows scored 5/10, 1 with errors, 2 rows/s, 0:00:02 left",
        "rows 20/50, 2/s, 0:00:15 left",
        "two lines are one",
    ]
