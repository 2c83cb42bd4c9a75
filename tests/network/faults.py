"""Each fault of a cluster's hosts and network, done to a training, to a scoring job and to the endpoint beside them.

A fault happens twice on a cluster of its own: in the midst of a training and in the midst of a scoring job, while a
client asks the endpoint all the time. The outcome is whole when training came to the losses of an undisturbed one, step
by step, when the scored files are to the byte those of an undisturbed job and ``verify`` finds nothing amiss, and when
no answer was another. Errors of the endpoint are counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from asking import Asking
from hosts import Link
from ray_hosts import Cluster, until
from work import ENDPOINT, Result, Work, hosts_of, losses, score, texts, train

import rayclf

CUT_S = 30.0
SLOW = Link(delay_s=0.05, loss=0.01)  # in each direction
Disturb = Callable[[str], None]
log = logging.getLogger("network")


@dataclass
class Outcome:
    """What became of the work under a fault. ``resumed`` are the steps after which training went on, ``off`` is the
    largest difference of a step's loss from the undisturbed training's."""

    fault: str
    resumed: list[int] = field(default_factory=list)
    off: float = float("inf")
    scored: Result | None = None
    answered: int = 0
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing was lost, doubled or wrong."""
        return (
            self.scored is not None and self.scored.equal and self.off < 1e-4 and not self.wrong and self.answered > 0
        )


def worker_killed(work: Work) -> Outcome:
    """A node loses power, and comes back after 20 s as a new one."""
    with Cluster(work.lab) as cluster:

        def disturb(name: str) -> None:
            cluster.host(name).kill()
            time.sleep(20)
            power_back(cluster, name)

        return undergo(work, "worker killed", cluster, disturb)


def cut_off(work: Work) -> Outcome:
    """A node is cut off for 30 s and joined again; where Ray has given it up, it begins as a new one."""
    with Cluster(work.lab) as cluster:

        def disturb(name: str) -> None:
            cluster.host(name).cut()
            time.sleep(CUT_S)
            cluster.host(name).join()

        return undergo(work, "cut off for 30 s", cluster, disturb)


def slow_link(work: Work) -> Outcome:
    """A node is at a line of 50 ms and 1 % loss in each direction, from the start."""
    with Cluster(work.lab, links={"worker-2": SLOW}) as cluster:
        return undergo(work, "slow link", cluster, lambda name: None)


def head_restarted(work: Work) -> Outcome:
    """The head loses power, and with it the jobs' drivers, and comes back after 5 s with what Redis kept for it."""
    with Cluster(work.lab, redis=True) as cluster:

        def disturb(name: str) -> None:
            cluster.host("head").kill()
            time.sleep(5)
            power_back(cluster, "head")
            until(lambda: cluster.get("/api/version"), "the head answers again", 120)
            cluster.drivers_died()

        return undergo(work, "head restarted", cluster, disturb)


def node_joins(work: Work) -> Outcome:
    """A node comes in the midst, and both jobs use it: the other is slow from then on, for Ray looks for new nodes once
    a minute."""
    with Cluster(work.lab, ("worker-1",), cpus=4) as cluster:
        used: list[str] = []

        def disturb(name: str) -> None:
            cluster.host("worker-1").slow_down(0.3)
            if "worker-2" in cluster.names:
                power_back(cluster, "worker-2")
            else:
                cluster.add("worker-2")

        def leave() -> None:
            cluster.away.add("worker-2")
            cluster.host("worker-2").kill()

        def wait_for_use(run: rayclf.Run | None) -> None:
            def is_used() -> bool:
                return "worker-2" in (cluster.places("MapWorker") if run is None else hosts_of(run))

            until(lambda: is_used() or (run is not None and run.status["state"] != "running"), "the node is used", 150)
            if is_used():
                used.append("scoring" if run is None else "training")

        outcome = undergo(
            work,
            "node joins",
            cluster,
            disturb,
            cpus=2,
            tokens=1,
            replicas=1,
            scorers=(1, 4),
            between=leave,
            seen=wait_for_use,
        )
        outcome.notes += [f"{what} used it" for what in used]
        return outcome


FAULTS: dict[str, Callable[[Work], Outcome]] = {
    "worker-killed": worker_killed,
    "cut-off": cut_off,
    "slow-link": slow_link,
    "head-restarted": head_restarted,
    "node-joins": node_joins,
}


def power_back(cluster: Cluster, name: str) -> None:
    """A machine that was without power begins anew, as a node."""
    cluster.away.discard(name)
    cluster.host(name).boot()
    cluster.restart(name)


def undergo(
    work: Work,
    fault: str,
    cluster: Cluster,
    disturb: Disturb,
    *,
    cpus: int = 4,
    tokens: int = 64,
    replicas: int = 2,
    scorers: tuple[int, int] = (2, 2),
    between: Callable[[], None] = lambda: None,
    seen: Callable[[rayclf.Run | None], None] = lambda run: None,
) -> Outcome:
    """Both jobs under a fault, which ``disturb`` does to the node that it is told; ``seen`` waits for what is to come
    of it while the job goes on, with the run of a training."""
    outcome, began = Outcome(fault), time.monotonic()
    questions = [text for text, _ in texts(8, 99)]
    log.info("%s: cluster %d is up", fault, cluster.number)
    work.deploy(cluster, replicas)
    log.info("the endpoint is up")
    with Asking(ENDPOINT, cluster.addresses("worker-1", "worker-2"), questions) as asking:

        def while_training(run: rayclf.Run) -> None:
            host = hosts_of(run)[0]  # that of the first worker, which writes the checkpoints
            log.info("training runs on %s, at step %d; now the fault, at %s", hosts_of(run), max(losses(run)), host)
            disturb(host)
            seen(run)

        def while_scoring() -> None:
            places = cluster.places("MapWorker")
            log.info("scoring runs on %s; now the fault", places)
            disturb((places or ["worker-1"])[0])
            seen(None)

        run = train(cluster, work.training([1, 2], cpus, tokens), while_training)
        outcome.resumed = [line["step"] for line in run.lines if line["kind"] == "resumed"]
        outcome.off = differs(run, work)
        log.info("trained on %s, resumed after %s, off by %g", hosts_of(run), outcome.resumed, outcome.off)
        between()
        until(cluster.mended, "all nodes are back", 180)
        outcome.scored = score(cluster, work, f"scored-{cluster.number}", list(scorers), while_scoring)
        log.info("scored: %s", outcome.scored)
    outcome.answered, outcome.wrong, outcome.errors = asking.answered, asking.wrong, asking.errors
    outcome.slowest, outcome.seconds = asking.slowest, time.monotonic() - began
    return outcome


def differs(run: rayclf.Run, work: Work) -> float:
    """How far the losses of a run are from those of the undisturbed one; infinite where steps are missing."""
    found = losses(run)
    if found.keys() != work.losses.keys() or run.status["state"] != "done":
        return float("inf")
    return max(abs(found[step] - loss) for step, loss in work.losses.items())
