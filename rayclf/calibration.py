"""Temperature: one number that makes the probabilities of a trained classifier mean what they say.

Logits are divided by the T that minimises the log loss on rows held out of training (Guo et al. 2017,
arXiv:1706.04599), with a prior on T: its logarithm is normal around 0, with variance 1. To hundreds of rows that is
nothing; a few rows no longer move T far by chance, and where every row is right, so that the loss alone would fall for
ever, there is a best T. No label changes places; only how sure the answers are. Thresholds come after, from
probabilities at that temperature (:mod:`rayclf.thresholds`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayclf.labels import Floats, LabelSpace, ProblemType

COLDEST, HOTTEST = 0.05, 20.0  # the temperatures that can be found
FEWEST_ROWS = 20  # with fewer, the temperature stays 1
_CELLS = 2**18  # logits worked on at once
# 1 / T, of which the log loss is a convex function: its slope rises from the first to the last.
_GRID = np.geomspace(1 / HOTTEST, 1 / COLDEST, 25)
_STEP = float(np.log(_GRID[1] / _GRID[0]))
Doubles = npt.NDArray[np.float64]


@dataclass
class TemperatureFit:
    """The log loss's slope at 25 temperatures: ``update`` with batches of logits, ``merge`` other workers' fits.

    What is kept does not grow with the rows. The minimum is where the slope is 0, found between two temperatures of
    the grid by the cubic through the slopes and their derivatives there: within 0.1 % of the exact one.
    """

    space: LabelSpace
    rows: int = 0  # with a known target

    def __post_init__(self) -> None:
        self.slope, self.curvature = np.zeros((2, len(_GRID)))  # first and second derivative of the loss by 1 / T

    def update(self, logits: Floats, targets: Floats) -> None:
        """Count a batch: logits at temperature 1 and targets ``[n, K]``, targets 1, 0 or NaN for unknown."""
        step = max(1, _CELLS // len(self.space))
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            self._update(logits[part].astype(np.float64), targets[part])

    def _update(self, logits: Doubles, targets: Floats) -> None:
        if self.space.problem_type is ProblemType.MULTICLASS:
            labelled = (targets == 1).any(axis=1)
            self.rows += int(labelled.sum())
            # How far each logit is above the true label's: no row that is right has a positive one, whatever rounding.
            margins = logits[labelled] - logits[labelled][targets[labelled] == 1][:, None]
            for place, beta in enumerate(_GRID):
                weights = np.exp(beta * (margins - margins.max(axis=1, keepdims=True, initial=0)))
                weights /= weights.sum(axis=1, keepdims=True)
                mean = (weights * margins).sum(axis=1)
                self.slope[place] += mean.sum()
                self.curvature[place] += (weights * (margins - mean[:, None]) ** 2).sum()
            return
        known = ~np.isnan(targets)
        self.rows += int(known.any(axis=1).sum())
        margins = np.where(targets == 1, -logits, logits)[known]  # above 0 where the label is judged wrongly
        for place, beta in enumerate(_GRID):
            wrong = 1 / (1 + np.exp(-np.clip(beta * margins, -700, 700)))
            self.slope[place] += (margins * wrong).sum()
            self.curvature[place] += (margins**2 * wrong * (1 - wrong)).sum()

    def merge(self, other: TemperatureFit) -> None:
        """Add the sums of another fit over the same label space."""
        self.rows += other.rows
        self.slope = self.slope + other.slope
        self.curvature = self.curvature + other.curvature

    def temperature(self) -> float:
        """The most likely T from 0.05 to 20; 1 with fewer than 20 judged rows."""
        if self.rows < FEWEST_ROWS:
            return 1.0
        slope = self.slope + np.log(_GRID) / _GRID  # of the prior, (log T)² / 2
        curvature = self.curvature + (1 - np.log(_GRID)) / _GRID**2
        if slope[-1] <= 0:
            return COLDEST
        if slope[0] >= 0:
            return HOTTEST
        above = int(np.argmax(slope > 0))
        low, high = slope[above - 1 : above + 1]
        # Derivatives by the position between the two grid points, which are equally far apart in log 1 / T.
        low_rate, high_rate = (curvature * _GRID * _STEP)[above - 1 : above + 1]

        def slope_at(x: float) -> float:
            hermite = (2 * x**3 - 3 * x**2 + 1) * low + (x**3 - 2 * x**2 + x) * low_rate
            return float(hermite + (3 * x**2 - 2 * x**3) * high + (x**3 - x**2) * high_rate)

        left, right = 0.0, 1.0
        for _ in range(50):
            middle = (left + right) / 2
            left, right = (left, middle) if slope_at(middle) > 0 else (middle, right)
        return float(1 / (_GRID[above - 1] * np.exp(left * _STEP)))
