"""Hosts of a cluster fail, and the network between them: what becomes of training, scoring and the endpoint.

    python tests/benchmarks/network.py [--faults worker-killed,cut-off,slow-link,head-restarted,node-joins] [--keep DIR]

Builds hosts of network namespaces on this machine, so root on Linux only: a Ray head and two workers with token
authentication, and an S3 server (and Redis for the head's restart) on a fourth. All work is sent by ``ray job submit``.
Each fault gets a cluster of its own and happens twice, in the midst of a training and of a scoring job, while a client
asks the endpoint twice a second; see tests/network/faults.py. Exit code 1 where one does not pass: training did not
come to the losses of an undisturbed one, rows were lost or doubled, files were others, or answers wrong or missing.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "network"))

from faults import FAULTS, Outcome
from hosts import unavailable
from lab import Lab
from work import LONG, Work


def line(outcome: Outcome | None, name: str) -> str:
    """A fault's line of the table."""
    if outcome is None or outcome.scored is None:
        return f"| {name} | **failed** | | | | | |"
    passed = "pass" if outcome.whole and not outcome.errors else "**failed**"
    resumed = ", ".join(map(str, outcome.resumed)) or "not interrupted"
    errors = f"{len(outcome.errors)} of {outcome.answered + len(outcome.errors)}"
    cells = (outcome.fault, passed, resumed, outcome.scored.lost, outcome.scored.doubled, errors)
    return f"| {' | '.join(map(str, cells))} | {outcome.slowest:.0f} s |"


def main() -> None:
    """Do the faults and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, and in which order")
    parser.add_argument("--keep", type=Path, help="folder for the logs of clusters that failed, else they go")
    args = parser.parse_args()
    names = args.faults.split(",")
    if unknown := [name for name in names if name not in FAULTS]:
        parser.error(f"--faults {','.join(unknown)}: there are {', '.join(FAULTS)}")
    if why := unavailable():
        sys.exit(why)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("network").setLevel(logging.INFO)
    lines, folder = [], Path(tempfile.mkdtemp(prefix="network-"))
    try:
        with Lab(folder) as lab:
            began, work = time.monotonic(), Work(lab, LONG)
            work.undisturbed()
            print(f"undisturbed: {max(work.losses)} steps, {len(work.truth)} files, {time.monotonic() - began:.0f} s")
            for name in names:
                outcome = None
                try:
                    outcome = FAULTS[name](work)
                    print(outcome, flush=True)
                except AssertionError as error:
                    print(f"{name}: {error}", flush=True)
                lines.append(line(outcome, name))
    finally:
        if args.keep is not None and (folder / "logs").exists():
            shutil.copytree(folder / "logs", args.keep, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    print("\n| fault | | training went on after step | rows lost | doubled | endpoint errors | slowest answer |")
    print("| --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(lines))
    sys.exit(any("failed" in one for one in lines))


if __name__ == "__main__":
    main()
