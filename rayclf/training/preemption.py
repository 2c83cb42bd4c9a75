"""Whether a node under the training is about to be taken away, without asking Ray at each step."""

from __future__ import annotations

import time

import ray.train

EVERY_S = 0.25  # a node is told of it half a minute or more before it goes


class Preemption:
    """News of a node of the group that will go; each worker has one and calls it once a step.

    ``ray.train.get_preemption_info`` is a barrier: all workers have to ask equally often, and each time they wait for
    one another and for an actor's answer, some 3 ms. So they agree on when: what :meth:`due` says goes along with a
    step's gradients (``signals`` of :func:`~rayclf.training.step.train_step`), and where it was true for any worker
    all of them ask at the next step.
    """

    def __init__(self) -> None:
        self._asked = time.monotonic()
        self._known = False

    def due(self) -> bool:
        """Whether this worker has not asked for a quarter of a second."""
        return not self._known and time.monotonic() - self._asked >= EVERY_S

    def news(self, ask: bool) -> bool:
        """True once, when a node is to go. ``ask`` is the same on all workers: that it was due for one of them."""
        if not ask or self._known:
            return False
        self._known = ray.train.get_preemption_info() is not None
        self._asked = time.monotonic()
        return self._known
