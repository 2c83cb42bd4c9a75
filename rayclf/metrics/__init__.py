"""Metrics from a stream of probabilities: constant memory a label, mergeable over workers, no K × K matrix.

Checked against scikit-learn, whose definitions they follow: precision, recall and F1 of a label without predictions
or rows are 0; macro and weighted means run over the labels that occur in targets or predictions.
"""

from rayclf.metrics.names import LOWER_IS_BETTER, METRICS, metrics_of, rank_of
from rayclf.metrics.state import MetricState

__all__ = ["LOWER_IS_BETTER", "METRICS", "MetricState", "metrics_of", "rank_of"]
