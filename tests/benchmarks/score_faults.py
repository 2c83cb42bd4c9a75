"""Kill a part of a scoring job at a random moment, go on by the same command until it is done, compare the output.

    python tests/benchmarks/score_faults.py [--trials 100] [--units 200] [--seed 1] [--s3]
                                            [--kinds driver,writer] [--minutes 60] [--one-ray]

Each trial is ``rayclf score`` in a process and a Ray of its own, of which SIGKILL takes one: the driver, a scorer, a
scorer with a half-written file (``writer``), the raylet, or all at once (``machine``). ``overlap`` kills the driver and
goes on at once, while the old job's processes are still there; before all other attempts they are gone. With ``--s3``
every other trial has its input and output in a real S3 server, which is a further victim: it is killed and comes back.
``--one-ray`` saves starting Ray: jobs join one, but for those whose raylet or machine is killed.

A trial is equal when its files are byte for byte those of an undisturbed job, ``--verify`` finds them whole, and no
file that a reader saw after the kill was another. The job runs as a larger one would: commit records are folded by 16
and units handed out in waves of 64, so that kills fall there too. Exit code 1 where a trial is not equal. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from s3 import KINDS as SERVERS
from s3 import S3Server, _answers
from tiny import make_classifier, write_backbone

from rayclf import storage
from rayclf.errors import RayclfError
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.verify import verify

LOCAL = ("driver", "scorer", "writer", "raylet", "machine", "overlap")
REMOTE = ("driver", "scorer", "writer", "raylet", "machine", "server")
_STARTING = 0.2  # the share of kills that fall before the first unit is done
_HANGS = 300.0  # seconds after which an attempt is taken to hang, or three times the undisturbed job if that is more
_ATTEMPTS = 6
_STARTS = 20  # a busy machine may not start Ray in the time that Ray gives itself
_PR_SET_CHILD_SUBREAPER = 36


class Server(S3Server):
    """An S3 server that dies, and comes back at the same address with what it had."""

    def kill(self) -> None:
        """Kill it as a whole: the door first, so that nothing is answered by a half of it."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def revive(self) -> None:
        """Start it again, the door last."""
        self._processes = []
        for kind in SERVERS:
            port = int(re.findall(r"bind_port = (\d+)", (self._root / f"{kind}-server.conf").read_text())[0])
            self._processes.append(self._launch(kind, port))
            while not _answers(port):
                time.sleep(0.05)

    @property
    def pids(self) -> set[int]:
        """Its processes."""
        return {process.pid for process in self._processes}

    def writes(self) -> bool:
        """Whether an object is being put: until it is whole it has no name, and is a file that its server has open."""
        folder = f"/proc/{self._processes[SERVERS.index('object')].pid}/fd"
        for number in os.listdir(folder):
            with suppress(OSError):  # closed meanwhile
                name = os.readlink(f"{folder}/{number}")
                if "/d1/objects/" in name and name.endswith(" (deleted)"):
                    return True
        return False


@dataclass
class Bench:
    """What all trials share. ``first_unit`` is how long the undisturbed job took to its first unit, in seconds."""

    root: Path
    artifact: Path
    truth: dict[str, bytes]
    chance: random.Random
    units: int
    first_unit: float = 0.0
    patience: float = _HANGS
    server: Server | None = None
    shared: dict[int, str] = field(default_factory=dict)  # processes of the one Ray, and its address

    def join_ray(self) -> None:
        """Start the one Ray that jobs join."""
        import ray

        from rayclf.cluster import connect

        before = {child.pid for child in psutil.Process().children()}
        for _ in range(_STARTS):
            try:
                connect()
                break
            except Exception as error:  # Ray's own, of no narrower class
                print(f"Ray did not start: {error}", flush=True)
                ray.shutdown()
                self.clean()
        address = ray.get_runtime_context().gcs_address
        self.shared = {child.pid: address for child in psutil.Process().children() if child.pid not in before}

    def processes(self, name: str = "") -> list[psutil.Process]:
        """The processes of jobs, driver and Ray, whose names begin with ``name``; orphans too: they become ours."""
        spared = {*self.shared, *(self.server.pids if self.server else ())}
        found = []
        for child in psutil.Process().children(recursive=True):
            try:
                if child.pid not in spared and child.status() != psutil.STATUS_ZOMBIE and child.name().startswith(name):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def apart(self) -> list[psutil.Process]:
        """All processes of jobs but those of the one Ray."""
        kept = {own.pid for pid in self.shared for own in psutil.Process(pid).children(recursive=True)}
        return [process for process in self.processes() if process.pid not in kept]

    def clean(self) -> None:
        """End all that is left of jobs; of those that joined the one Ray, Ray itself ends what their drivers left."""
        while self.shared and self.processes("ray::MapWorker"):
            time.sleep(0.1)
        while left := self.apart():
            kill(*left)
            psutil.wait_procs(left, timeout=10)
        shutil.rmtree(self.root / "ray", ignore_errors=True)

    def start(self, source: str, output: str, kind: str = "") -> subprocess.Popen[bytes]:
        """Start a job in a process group of its own, and but for some kinds of kills in the one Ray."""
        (self.root / "ray").mkdir(exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        if self.shared and kind not in ("raylet", "machine"):
            environment["RAY_ADDRESS"] = next(iter(self.shared.values()))
        environment |= {"RAY_TMPDIR": str(self.root / "ray"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, "job", "score", str(self.artifact), source, output, "--columns", "text"]
        with open(self.root / "log", "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def kill(*processes: psutil.Process) -> None:
    """SIGKILL, at once."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


@dataclass
class Trial:
    """One job that is disturbed once."""

    bench: Bench
    kind: str
    source: str
    output: str
    moment: float = 0.0  # of the job, from 0 to 1
    told: str = ""

    @property
    def done(self) -> int:
        """Files of units that a reader sees."""
        try:
            return len(Manifest(self.output).parts())
        except RayclfError:
            return 0

    def wait(self, job: subprocess.Popen[bytes], happened: Callable[[], object], pause: float) -> bool:
        """Wait until something happened; False where the job ended, or hung, before."""
        end = time.monotonic() + self.bench.patience
        while not happened():
            if job.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(pause)
        return True

    def disturb(self, job: subprocess.Popen[bytes]) -> bool:
        """Wait for the moment and kill; False where the job was done before."""
        bench, chance, began = self.bench, self.bench.chance, time.monotonic()
        pause = 0.3 if "://" in self.output else 0.01
        if self.kind in ("driver", "overlap", "machine", "server") and self.moment < _STARTING:
            seconds = self.moment / _STARTING * bench.first_unit
            reached = self.wait(job, lambda: time.monotonic() - began > seconds, 0.01)
        else:
            wanted = (self.moment - _STARTING) / (1 - _STARTING) * bench.units
            reached = self.wait(job, lambda: self.done >= max(1, wanted), pause)
            time.sleep(chance.random() * pause)
        if not reached:
            return False
        self.told = f"{time.monotonic() - began:4.0f} s, {self.done} of {bench.units} files"
        if self.kind in ("driver", "overlap"):
            job.kill()
        elif self.kind == "machine":
            kill(*bench.apart())
        elif self.kind == "server":
            return self.break_server()
        else:
            name = "raylet" if self.kind == "raylet" else "ray::MapWorker"
            if not self.wait(job, lambda: bench.processes(name), 0.1):
                return False
            victims = bench.processes(name)
            if self.kind == "writer":
                return self.wait(job, lambda: self.kill_writing(victims), 0.0005)
            kill(chance.choice(victims))
        return True

    def kill_writing(self, writers: list[psutil.Process]) -> bool:
        """Kill the writers if one of them is in the middle of a put."""
        server = self.bench.server
        if "://" in self.output:
            found = server is not None and server.writes()
            if found:
                kill(*writers)
            return found
        if not self.drafts():
            return False
        for writer in writers:
            writer.suspend()
        if self.drafts():  # it is still there, and will never be finished
            kill(*writers)
            return True
        for writer in writers:
            writer.resume()
        return False

    def drafts(self) -> list[str]:
        """Half-written files of units."""
        return [name for name in os.listdir(self.output) if name.startswith(".part-")]

    def break_server(self) -> bool:
        """Kill the server, and start it again after 0 to 8 seconds."""
        server = self.bench.server
        assert server is not None
        server.kill()
        time.sleep(8 * self.bench.chance.random())
        server.revive()
        return True

    def run(self) -> Result | None:
        """Disturb the job and go on with it; None where it was done before the moment came."""
        bench, codes, torn = self.bench, list[int | None](), 0
        began = time.monotonic()
        self.moment = bench.chance.random()
        while len(codes) < _ATTEMPTS and (not codes or codes[-1] != 0):
            job = bench.start(self.source, self.output, self.kind)
            if not codes and not self.disturb(job):
                bench.clean()
                return None
            try:
                codes.append(job.wait(bench.patience))
            except subprocess.TimeoutExpired:
                codes.append(None)
            if len(codes) == 1:
                torn = sum(bench.truth.get(name) != data for name, data in contents(self.output).items())
            if self.kind != "overlap" or len(codes) > 1:
                bench.clean()
        result = compare(bench.truth, self.output, torn)
        result.codes, result.seconds = codes, time.monotonic() - began
        return result


@dataclass
class Result:
    """What became of a trial: rows lost and doubled, files that are not those of the undisturbed job (at the end, and
    when the kill had just happened), what is wrong by ``--verify``, the exit codes of the attempts (None: it hung)."""

    lost: int
    doubled: int
    others: int
    torn: int
    wrong: str
    codes: list[int | None]
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether nothing tells that a kill has been."""
        return not (self.lost or self.doubled or self.others or self.torn or self.wrong) and self.codes[-1] == 0


def contents(output: str) -> dict[str, bytes]:
    """The files of scored rows as a reader sees them."""
    found = {}
    for part in Manifest(output).parts():
        filesystem, inner = storage.resolve(part.path)
        with filesystem.open_input_stream(inner, compression=None) as stream:
            found[part.name] = stream.read()
    return found


def ids(files: dict[str, bytes]) -> Counter[str]:
    """How often each id is in the files."""
    return Counter(i for data in files.values() for i in pq.read_table(pa.BufferReader(data))["id"].to_pylist())


def compare(truth: dict[str, bytes], output: str, torn: int) -> Result:
    """An output beside that of the undisturbed job."""
    found = contents(output)
    had, have = ids(truth), ids(found)
    others = sum(found.get(name) != truth.get(name) for name in truth | found)
    try:
        verify(output)
        wrong = ""
    except RayclfError as error:
        wrong = str(error)
    return Result((had - have).total(), (have - had).total(), others, torn, wrong, [])


def write_input(place: str, units: int) -> None:
    """Files of two units each, Parquet and JSONL by turns; some rows have no text."""
    chance = random.Random(7)
    words = ("cell", "membrane", "court", "contract", "bank", "interest", "rate", "energy", "law", "term", "loan")
    for number in range(units // 2):
        texts = [" ".join(chance.choices(words, k=chance.randint(1, 8))) for _ in range(512 + 40)]
        rows = [{"text": None if row % 97 == 5 else f"{text} {row}"} for row, text in enumerate(texts)]
        form = "jsonl" if number % 2 else "parquet"
        with storage.write_whole(storage.join(place, f"{number:04d}.{form}")) as file:
            if form == "parquet":
                pq.write_table(pa.Table.from_pylist(rows), file)
            else:
                file.write("".join(json.dumps(row) + "\n" for row in rows).encode())


def undisturbed(bench: Bench, source: str, output: str) -> None:
    """Run the job to which nothing happens; its output is the truth."""
    trial = Trial(bench, "none", source, output)
    for _ in range(_STARTS):
        began, job = time.monotonic(), bench.start(source, output)
        trial.wait(job, lambda: trial.done, 0.05)
        bench.first_unit = time.monotonic() - began
        code = job.wait()
        bench.clean()
        if code == 0:
            break
    else:
        raise SystemExit(f"the undisturbed job failed:\n{(bench.root / 'log').read_text()}")
    bench.truth = contents(output)
    took = time.monotonic() - began
    bench.patience = max(_HANGS, 3 * took)
    print(f"undisturbed: {len(bench.truth)} files, {took:.0f} s, {bench.first_unit:.0f} s to the first", flush=True)


def trials(
    bench: Bench, count: int, minutes: float, places: dict[str, str], kinds: list[str]
) -> list[tuple[Trial, Result]]:
    """Run the trials, kinds by turns, and tell of each."""
    turns = [turn for pair in zip(LOCAL, REMOTE, strict=True) for turn in zip(("local", "s3"), pair, strict=True)]
    turns = [(place, kind) for place, kind in turns if place in places and kind in kinds]
    results: list[tuple[Trial, Result]] = []
    missed = 0
    end = time.monotonic() + 60 * minutes
    while len(results) < count and time.monotonic() < end:
        place, kind = turns[len(results) % len(turns)]
        output = storage.join(places[place], f"out-{len(results)}-{missed}")
        trial = Trial(bench, kind, storage.join(places[place], "in"), output)
        result = trial.run()
        if result is None:
            missed += 1
            if missed > 10 + count:
                raise SystemExit("jobs end before they are disturbed; take more --units")
            continue
        results.append((trial, result))
        codes = ",".join("hung" if code is None else str(code) for code in result.codes)
        told = f"{result.lost} lost, {result.doubled} doubled, {result.others} other files, {result.torn} torn"
        verdict = "equal" if result.equal else f"NOT EQUAL: {told}; {result.wrong}"
        print(f"{len(results):3}  {place:5}  {kind:8}  at {trial.told:25}  exit {codes:12}  "
              f"{result.seconds:4.0f} s  {verdict}", flush=True)  # fmt: skip
        if result.equal:
            remove(output)
    return results


def remove(output: str) -> None:
    """Take an output away."""
    if "://" not in output:
        shutil.rmtree(output)
        return
    filesystem, inner = storage.resolve(output)
    filesystem.delete_dir(inner)


def table(results: list[tuple[Trial, Result]]) -> None:
    """Print what became of each kind."""
    print(f"\n{'':18}{'trials':>7}{'equal':>7}{'lost':>7}{'doubled':>9}{'attempts':>10}{'most':>6}{'hung':>6}")
    groups: dict[str, list[Result]] = {}
    for trial, result in results:
        groups.setdefault(f"{trial.kind}, {'s3' if '://' in trial.output else 'local'}", []).append(result)
    for name, some in [*sorted(groups.items()), ("all", [result for _, result in results])]:
        attempts = [len(result.codes) for result in some]
        print(
            f"{name:18}{len(some):7}{sum(r.equal for r in some):7}{sum(r.lost for r in some):7}"
            f"{sum(r.doubled for r in some):9}{statistics.mean(attempts):10.1f}{max(attempts):6}"
            f"{sum(r.codes.count(None) for r in some):6}"
        )


def job() -> None:
    """Run the command line after ``job``, with records folded and waves as in a job of many more units."""
    import rayclf.cli.main
    from rayclf.scoring import pipeline

    pipeline._FOLDED, pipeline._WAVE = 16, 64
    sys.argv = ["rayclf", *sys.argv[2:]]
    rayclf.cli.main.main()


def main() -> None:
    """Run the trials; exit with 1 where one is not equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no trial after")
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(dict.fromkeys(LOCAL + REMOTE)))
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--one-ray", action="store_true")
    args = parser.parse_args()
    # Processes whose parent was killed become ours, so that they are found, and are nobody else's.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        root = Path(name)
        artifact = make_classifier(write_backbone(root / "bert", "bert")).save(root / "artifact")
        bench = Bench(root, artifact, {}, random.Random(args.seed), args.units)
        places = {"local": str(root)}
        try:
            if args.s3:
                bench.server = Server().__enter__()
                os.environ |= bench.server.variables()
                places["s3"] = f"s3://{bench.server.new_bucket()}"
            for place in places.values():
                write_input(storage.join(place, "in"), args.units)
            if args.one_ray:
                bench.join_ray()
            undisturbed(bench, storage.join(places["local"], "in"), storage.join(places["local"], "truth"))
            results = trials(bench, args.trials, args.minutes, places, args.kinds.split(","))
        finally:
            bench.clean()
            if bench.server is not None:
                bench.server.__exit__(None, None, None)
    table(results)
    sys.exit(any(not result.equal for _, result in results))


if __name__ == "__main__":
    job() if sys.argv[1:2] == ["job"] else main()
