"""A search on disk: every trial with its values, curve and end, in ``tune.json``, and as a page in ``tune.html``.

tune.json  tune.html  data/ (the prepared rows of all trials)  trials/<id>/ (a run folder each)  best/ (the winner's)
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rayclf import storage
from rayclf.charts import heading, line_chart, note, page, table
from rayclf.training.run import Kind, Run, now

RECORD = "tune.json"
SEARCH = Kind("search", (RECORD,))
_HEAVY = ("artifact", "checkpoints")


@dataclass(frozen=True)
class Trial:
    """One run of a search. ``state``: waiting, running, done, stopped (others were better at the same point), cut (the
    budget ended or the user stopped the search) or failed. ``curve`` is ``(step, metric)`` of each validation."""

    id: str
    values: Mapping[str, Any]
    state: str = "waiting"
    score: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    seconds: float | None = None
    error: str | None = None

    @property
    def duration(self) -> str:
        """``seconds`` as a person reads them, a dash where it never began."""
        return "–" if self.seconds is None else f"{self.seconds:.0f}"


@dataclass(frozen=True)
class Search:
    """A search and what it left; what it tells is read from ``tune.json``."""

    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        """``state`` (running, done, stopped, failed), ``metric``, ``space``, ``winner``, ``trials`` and times."""
        return dict(storage.read_json(self.folder / RECORD))

    @property
    def trials(self) -> list[Trial]:
        """All trials in the order they were started."""
        trials = self.record["trials"]
        return [Trial(**{**trial, "curve": tuple((s, v) for s, v in trial["curve"])}) for trial in trials]

    @property
    def winner(self) -> Trial:
        """The best finished trial by the metric on validation rows."""
        name = self.record["winner"]
        return next(trial for trial in self.trials if trial.id == name)

    @property
    def best(self) -> Run:
        """The winner's run."""
        return Run(self.folder / "best")

    @property
    def artifact(self) -> Path:
        """The winner's classifier."""
        return self.best.artifact


@dataclass
class Board:
    """The trials of a running search, kept on disk as they change; the best finished one so far is ``winner``."""

    folder: Path
    facts: Mapping[str, Any]
    metric: str
    lower: bool  # whether a smaller metric is better
    trials: list[Trial]
    keep: bool = False
    winner: str | None = None
    fields: dict[str, Any] = field(default_factory=lambda: {"state": "running", "started": now()})

    def write(self, **fields: Any) -> None:
        """Write ``tune.json``, with ``fields`` such as the state of the search from now on."""
        self.fields |= fields
        trials = [asdict(trial) for trial in self.trials]
        record = {
            **self.fields,
            "updated": now(),
            "metric": self.metric,
            "lower_is_better": self.lower,
            "winner": self.winner,
            **self.facts,
        }
        storage.write_json(self.folder / RECORD, record | {"trials": trials})

    def place(self, trial: Trial) -> Path:
        """The run folder of a trial."""
        return self.folder / "trials" / trial.id

    def update(self, number: int, **fields: Any) -> Trial:
        """Lay ``fields`` over a trial; its score follows from its curve."""
        trial = replace(self.trials[number], **fields)
        values = [value for _, value in trial.curve]
        score = None if not values else min(values) if self.lower else max(values)
        self.trials[number] = trial = replace(trial, score=score)
        self.write()
        return trial

    def end(self, number: int, state: str, error: str | None = None, seconds: float | None = None) -> Trial:
        """A trial is over: its run folder says so, and what only the winner needs is deleted from the others'."""
        trial = self.update(number, state=state, error=error, seconds=seconds)
        best = ranked(self.trials, self.lower)[0]
        self.winner = best.id if best.state == "done" else None
        self.tidy()
        self.write()
        return trial

    def tidy(self) -> None:
        """Mark the runs that were ended from outside; delete artifacts and checkpoints of trials that lost."""
        for trial in self.trials:
            run = Run(self.place(trial))
            ended = trial.state not in ("waiting", "running")
            if ended and (run.folder / "status.json").is_file() and run.status["state"] == "running":
                run.write_status(state="stopped", ended=now())  # it was killed before it could say so
            if ended and trial.id != self.winner and not self.keep:
                for name in _HEAVY:
                    shutil.rmtree(run.folder / name, ignore_errors=True)

    def finish(self, state: str) -> Search:
        """Move the winner's run to ``best/``, draw the page, and write how the search ended."""
        if self.winner is not None:
            (self.folder / "trials" / self.winner).rename(self.folder / "best")
        self.write(state=state, ended=now())
        with storage.write_whole(self.folder / "tune.html") as file:
            file.write(render(Search(self.folder)).encode())
        return Search(self.folder)


def ranked(trials: Sequence[Trial], lower: bool) -> list[Trial]:
    """Trials by score, the best first and of equals the earlier; those that have none or did not finish come last."""
    sign = 1 if lower else -1
    return sorted(trials, key=lambda t: (t.state != "done", t.score is None, sign * (t.score or 0)))


def render(search: Search) -> str:
    """The page as HTML: each trial's metric by step, and a table of all trials."""
    record, trials = search.record, search.trials
    metric = record["metric"]
    fields = list(record["space"])
    order = ranked(trials, record["lower_is_better"])
    rows = [
        # Values as they would be typed, not in four digits.
        (t.id, *(str(t.values[name]) for name in fields), t.score, t.state, t.duration, t.error or "")
        for t in order
    ]
    return page(
        f"Search over {', '.join(fields)}",
        [
            note(f"{len(trials)} trials on {record['data']}; best: {record['winner'] or 'none'}; {record['updated']}"),
            heading(f"{metric} on validation rows"),
            line_chart({t.id: t.curve for t in order if t.curve}, "step", metric),
            heading("Trials"),
            table(("trial", *fields, metric, "state", "seconds", "error"), rows),
        ],
    )
