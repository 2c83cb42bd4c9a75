"""rayclf: labelled text in, a classifier on a large language model out.

>>> import rayclf
>>> run = rayclf.train("questions.csv", "runs/x")
>>> classifier = rayclf.Classifier.load(run.artifact)
>>> classifier.predict(["Which organelle makes ATP?"])

Names are loaded when they are first used, so that importing rayclf costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayclf.client import AsyncClient as AsyncClient
    from rayclf.client import Client as Client
    from rayclf.client import ClientError as ClientError
    from rayclf.config import Config as Config
    from rayclf.config_file import load_config as load_config
    from rayclf.data.dataset import Dataset as Dataset
    from rayclf.data.inspect import inspect as inspect
    from rayclf.data.prepare import prepare as prepare
    from rayclf.errors import RayclfError as RayclfError
    from rayclf.errors import UserError as UserError
    from rayclf.labels import LabelSpace as LabelSpace
    from rayclf.labels import ProblemType as ProblemType
    from rayclf.model.engine import Classifier as Classifier
    from rayclf.model.engine import Prediction as Prediction
    from rayclf.model.evaluation import evaluate as evaluate
    from rayclf.model.export import export as export
    from rayclf.scoring.forecast import Forecast as Forecast
    from rayclf.scoring.forecast import forecast as forecast
    from rayclf.scoring.pipeline import ScoreSummary as ScoreSummary
    from rayclf.scoring.pipeline import score as score
    from rayclf.serving.run import Server as Server
    from rayclf.serving.run import serve as serve
    from rayclf.training.cost.estimate import estimate as estimate
    from rayclf.training.driver import train as train
    from rayclf.training.run import Run as Run
    from rayclf.training.search.record import Search as Search
    from rayclf.training.search.tune import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "client",
    "Classifier": "model.engine",
    "Client": "client",
    "ClientError": "client",
    "Config": "config",
    "Dataset": "data.dataset",
    "Forecast": "scoring.forecast",
    "LabelSpace": "labels",
    "Prediction": "model.engine",
    "ProblemType": "labels",
    "RayclfError": "errors",
    "Run": "training.run",
    "ScoreSummary": "scoring.pipeline",
    "Search": "training.search.record",
    "Server": "serving.run",
    "UserError": "errors",
    "estimate": "training.cost.estimate",
    "evaluate": "model.evaluation",
    "export": "model.export",
    "forecast": "scoring.forecast",
    "inspect": "data.inspect",
    "load_config": "config_file",
    "prepare": "data.prepare",
    "score": "scoring.pipeline",
    "serve": "serving.run",
    "train": "training.driver",
    "tune": "training.search.tune",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rayclf' has no attribute '{name}'")
    return getattr(importlib.import_module(f"rayclf.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
