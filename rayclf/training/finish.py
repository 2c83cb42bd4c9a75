"""The end of training: the best checkpoint, calibrated on the validation rows and tested as users will get it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import ray.train
import torch

from rayclf.bootstrap import Outcomes
from rayclf.calibration import TemperatureFit
from rayclf.labels import ProblemType
from rayclf.model.engine import Classifier
from rayclf.model.evaluation import Tally, new_state
from rayclf.model.samples import WorstMistakes
from rayclf.thresholds import tune_thresholds
from rayclf.training.checkpoints import UNRANKED
from rayclf.training.evaluator import Evaluator, raw_state
from rayclf.training.job import Job


def final_test(job: Job, evaluator: Evaluator, device: torch.device) -> None:
    """Load the best checkpoint anew, calibrate it, test it, and tell the journal; called by every worker.

    It computes as a classifier that is loaded does unless told otherwise, whatever the precision of training.
    """
    best = best_reported(ray.train.get_all_reported_checkpoints())
    step = best.metrics["step"]
    epoch = -(-step // job.steps_per_epoch)
    with best.checkpoint.as_directory() as folder:
        classifier = Classifier.load(Path(folder) / "artifact", device=str(device))
    metrics = dict(classifier.info.metrics)
    _calibrate(job, evaluator, classifier)
    tallies: dict[str, Tally] = {}
    if "validation" in job.rows:
        tallies["validation"] = evaluator.measure(classifier, "validation", _full(job, evaluator, classifier))
    if job.config.evaluation.training_rows:
        most = job.config.evaluation.training_rows
        tallies["train"] = evaluator.measure(classifier, "train", _full(job, evaluator, classifier), most=most)
    if "test" in job.rows:
        tallies["test"] = evaluator.measure(classifier, "test", _full(job, evaluator, classifier), write=True)
    if evaluator.rank != 0:
        return
    for part, tally in tallies.items():
        metrics[part] = _described(job, tally)
        evaluator.write({"part": part, "step": step, "epoch": epoch, "final": True, **metrics[part]})
    shown = tallies.get("test") or tallies.get("validation") or tallies.get("train")
    info = {"metrics": metrics, "temperature": classifier.info.temperature, "thresholds": classifier.info.thresholds}
    ray.get(
        job.journal.results.remote(
            {
                "checkpoint": best.checkpoint.path,
                "info": info,
                "curves": _curves(shown) if shown else {},
                "mistakes": shown.mistakes.records() if shown and shown.mistakes else [],
            }
        )
    )


def best_reported(reported: list[Any]) -> Any:
    """The evaluated checkpoint of the highest rank, the earliest of equals; where no rank is a number, the last one."""
    evaluated = [one for one in reported if one.metrics["evaluated"]]
    ranked = [one for one in evaluated if one.metrics["rank_by"] > UNRANKED]
    if not ranked:
        return max(evaluated, key=lambda one: one.metrics["step"])
    return max(ranked, key=lambda one: (one.metrics["rank_by"], -one.metrics["step"]))


def _calibrate(job: Job, evaluator: Evaluator, classifier: Classifier) -> None:
    """Set the classifier's temperature and thresholds by the validation rows, where there are such."""
    evaluation, space = job.config.evaluation, classifier.space
    tuned = job.config.labels.threshold == "tuned" and space.problem_type is not ProblemType.MULTICLASS
    if "validation" not in job.rows or not (evaluation.calibration or tuned):
        return
    counted = Tally(raw_state(classifier), fit=TemperatureFit(space) if evaluation.calibration else None)
    tally = evaluator.measure(classifier, "validation", counted)
    temperature = tally.fit.temperature() if tally.fit else 1.0
    thresholds = classifier.info.thresholds
    if tuned:
        # Found at temperature 1; dividing the logits moves them, and changes no decision.
        odds = _logit(tune_thresholds(tally.metrics).astype(np.float64)) / temperature
        thresholds = (1 / (1 + np.exp(-odds))).tolist()
    classifier.calibrate(temperature, thresholds)


def _logit(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.log(probabilities / (1 - probabilities))


def _full(job: Job, evaluator: Evaluator, classifier: Classifier) -> Tally:
    state = new_state(classifier)
    return Tally(
        state,
        raw=raw_state(classifier),
        outcomes=Outcomes(classifier.space, state.thresholds) if job.config.evaluation.resamples else None,
        own=evaluator.own(classifier),
        mistakes=WorstMistakes(classifier.space, state.thresholds, job.config.output.texts),
    )


def _described(job: Job, tally: Tally) -> dict[str, Any]:
    """All metrics of a part; how those that calibration changed were before; the headline's confidence interval."""
    metrics = tally.compute()
    if tally.raw is not None:
        before = {name: value for name, value in tally.raw.compute().items() if isinstance(value, float)}
        changed = (name for name, value in before.items() if not np.array_equal(value, metrics[name], equal_nan=True))
        metrics["uncalibrated"] = {name: before[name] for name in changed}
    if tally.outcomes is not None:
        train, evaluation = job.config.train, job.config.evaluation
        metrics |= tally.outcomes.described(train.metric, evaluation.resamples, train.seed)
    return metrics


def _curves(tally: Tally) -> dict[str, Any]:
    curves = tally.metrics.curves()
    return curves | {"reliability_before": tally.raw.curves()["reliability"] if tally.raw else []}
