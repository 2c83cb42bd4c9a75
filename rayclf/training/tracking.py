"""Where else the metrics of a run go (``output.track``): TensorBoard's event files, an MLflow server or folder.

``metrics.jsonl`` stays the record of a run. Trackers run in the driver and get the same events; one that cannot be
opened is an error before training, one that fails later says so once and then keeps quiet: training goes on.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rayclf import storage
from rayclf.config import Config, Section
from rayclf.errors import ConfigError, one_line
from rayclf.training.run import Run

_PACKAGES = {"tensorboard": ("tensorboardX", "tensorboardX"), "mlflow": ("mlflow", "MLflow")}
# Keys and passwords: the user part of an address, and the signatures and tokens that its query may hold.
_SECRETS = (
    (re.compile(r"://[^/@\s]*@"), "://***@"),
    (re.compile(r"(?i)\b(sig|signature|token|key|secret|password)=[^&\s\"']+"), r"\1=***"),
)
# What MLflow is to do unless the environment says otherwise. Its file store, the only one that needs no database,
# must be allowed since 3.13; seven retries of two minutes would hold up the end of a training.
_MLFLOW_DEFAULTS = {
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_END_STATES = {"done": "FINISHED", "failed": "FAILED"}  # anything else is KILLED
_FLUSH_SECONDS = 2.0
_STRANGE = re.compile(r"[^A-Za-z0-9_. -]")

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What follows a run."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Take one line of ``metrics.jsonl``; kinds other than ``step`` and ``evaluation`` are passed over."""

    def finish(self, run: Run, state: str) -> None:
        """The run has ended: ``done``, ``failed`` or ``stopped``."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError when the package behind one of ``output.track`` is not installed."""
    for name in names:
        module, title = _PACKAGES[name]
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"output.track: {name} needs {title}; install rayclf[track]")


def open_trackers(names: Sequence[str], folder: Path, config: Config) -> list[Tracker]:
    """The trackers of ``output.track`` for the run in ``folder``, whose resolved ``config`` they keep.

    A resumed run goes on in the same place. Raises ConfigError for a package or an MLflow server that is not there.
    """
    check_trackers(names)
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(folder / "tensorboard"),
        "mlflow": lambda: MLflow(folder, config),
    }
    return [_Forgiving(name, makers[name]()) for name in dict.fromkeys(names)]


def hide_secrets(text: str) -> str:
    """``text`` without the keys that addresses in it hold."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


class TensorBoard:
    """Scalars in TensorBoard's event files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def event(self, event: Mapping[str, Any]) -> None:
        """Write the numbers of an event; those of an evaluation are on disk afterwards."""
        for name, value in _numbers(event):
            self._open(event["step"]).add_scalar(name, value, event["step"], walltime=event.get("time"))
        if event["kind"] == "evaluation" and self._writer is not None:
            self._writer.flush()

    def finish(self, run: Run, state: str) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> Any:
        if self._writer is None:
            module = importlib.import_module("tensorboardX")  # it has no types
            # A resumed run repeats the steps after its checkpoint: TensorBoard is told to forget the first try. The
            # number goes into the file's name, which otherwise has no more than the second it was opened in.
            earlier = len(list(self._folder.glob("events.*")))
            purge = step if earlier else None
            self._writer = module.SummaryWriter(
                str(self._folder), purge_step=purge, flush_secs=10, filename_suffix=f".{earlier}"
            )
        return self._writer


class MLflow:
    """An MLflow run: the configuration as parameters, metrics by step, at the end the report and the artifact's facts.

    The server is that of MLFLOW_TRACKING_URI, else files in ``RUN/mlruns``; the experiment that of
    MLFLOW_EXPERIMENT_NAME, else ``rayclf``. ``RUN/mlflow.json`` keeps the run's id, so that a resumed run goes on.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        for name, value in _MLFLOW_DEFAULTS.items():
            os.environ.setdefault(name, value)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").absolute().as_uri()
        try:
            from mlflow.tracking import MlflowClient

            self._client = MlflowClient(tracking_uri=uri)
            self._run_id = self._start(folder, config)
        except Exception as error:
            reason = hide_secrets(one_line(error, None))[:300]
            raise ConfigError(f"output.track: mlflow cannot use {hide_secrets(uri)}: {reason}") from None
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def event(self, event: Mapping[str, Any]) -> None:
        """Keep the numbers of an event; they are sent with others every two seconds, and at each evaluation."""
        from mlflow.entities import Metric

        stamp = int(event.get("time", time.time()) * 1000)
        self._waiting += [Metric(name, value, stamp, event["step"]) for name, value in _numbers(event)]
        if event["kind"] == "evaluation" or time.monotonic() - self._sent > _FLUSH_SECONDS:
            self._send()

    def finish(self, run: Run, state: str) -> None:
        """Send what is left and the files, and close the run as FINISHED, FAILED or KILLED."""
        self._send()
        for file in (run.folder / "report.html", run.artifact / "rayclf.json"):
            if file.is_file():
                self._client.log_artifact(self._run_id, str(file))
        self._client.set_terminated(self._run_id, _END_STATES.get(state, "KILLED"))

    def _send(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:1000], self._waiting[1000:]  # as many as MLflow takes at once
            self._client.log_batch(self._run_id, metrics=some)
        self._sent = time.monotonic()

    def _start(self, folder: Path, config: Config) -> str:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        note = folder / "mlflow.json"
        if note.exists():
            try:
                run_id = str(storage.read_json(note)["run_id"])
                self._client.update_run(run_id, status="RUNNING")
                return run_id
            except MlflowException:
                log.warning("output.track: mlflow no longer has the run that is being resumed; it gets a new one")
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "rayclf")
        run_id = str(self._client.create_run(experiment, run_name=folder.name).info.run_id)
        storage.write_json(note, {"run_id": run_id})
        params = [Param(name, value[:6000]) for name, value in _params(config)]  # 6,000 letters and
        for start in range(0, len(params), 100):  # 100 parameters are as many as MLflow takes
            self._client.log_batch(run_id, params=params[start : start + 100])
        return run_id

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)  # another run may just have made it
                if found is None:
                    raise
        return str(found.experiment_id)


class _Forgiving:
    """A tracker that warns of its first failure and does nothing from then on."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name = name
        self._tracker: Tracker | None = tracker

    def event(self, event: Mapping[str, Any]) -> None:
        if event.get("kind") in ("step", "evaluation"):
            self._try(lambda tracker: tracker.event(event))

    def finish(self, run: Run, state: str) -> None:
        self._try(lambda tracker: tracker.finish(run, state))

    def _try(self, act: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            act(self._tracker)
        except Exception as error:
            self._tracker = None
            what = hide_secrets(f"{type(error).__name__}: {one_line(error, None)}")[:300]
            log.warning("output.track: %s failed and gets nothing more of this run (%s)", self._name, what)


def _numbers(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The finite numbers of an event as ``step/loss`` or ``validation/accuracy``, in letters that both take."""
    group = event["part"] if event["kind"] == "evaluation" else "step"
    for name, value in event.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if number and name not in ("time", "step", "epoch"):
            yield f"{group}/{_STRANGE.sub('_', name)}"[:250], float(value)


def _params(section: Section, before: str = "") -> Iterator[tuple[str, str]]:
    """Every field of the configuration by its dotted path, lists and dicts as JSON."""
    plain = section.model_dump(mode="json")
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _params(value, f"{before}{name}.")
        else:
            text = plain[name] if isinstance(plain[name], str) else json.dumps(plain[name], ensure_ascii=False)
            yield f"{before}{name}", hide_secrets(text)
