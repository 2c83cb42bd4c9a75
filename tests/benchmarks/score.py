"""Scoring an encoder on a CPU against its peers: the same weights, rows and threads, by turns.

    taskset -c 1 python tests/benchmarks/score.py ARTIFACT ROWS [--rows 500] [--rounds 3] [--infinity PYTHON]

Peers: ``transformers.pipeline`` (batches of 32 as they come); a PyTorch loop over padded batches of 32 sorted by
length, as it is and under ``torch.compile``; ONNX Runtime on a plain export of the whole model, after the fusions of
``onnxruntime.transformers.optimizer``, and with its own ``quantize_dynamic`` (8-bit weights, one scale a layer or one
an output; of the plain and of the fused graph); and, where given the Python of an environment that has them, Infinity's
engine and sentence-transformers' ``CrossEncoder.predict`` (see score_peer.py). Tokenizing is in every time, loading in
none. A round runs each once; told are medians of rows a second of processor time, which other programs disturb less
than they do the clock, and medians over the rounds of the ratios of ours to a peer, by processor and by clock.
Differences are between probabilities, over ``--checked`` rows, against ``--runtime torch``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from onnx import TensorProto
from transformers import AutoModelForSequenceClassification

import rayclf
from rayclf.data.formats import read_table
from rayclf.labels import Floats
from rayclf.model.artifact import load_artifact
from rayclf.model.info import find_artifact
from rayclf.model.packing import pad_batch
from rayclf.model.runtime.onnx import OnnxRuntime, onnxruntime
from rayclf.model.runtime.pytorch import TorchRuntime

Run = Callable[[list[str]], Floats]  # texts to logits
Batch = Callable[[torch.Tensor, torch.Tensor], Floats]
OURS = {"fp32": "rayclf onnx fp32", "int8": "rayclf onnx int8"}


class Process:
    """A peer in a process of its own; probabilities, where it tells any."""

    def __init__(self, python: str, kind: str, model: Path, threads: int, names: tuple[str, ...]) -> None:
        command = [python, str(Path(__file__).with_name("score_peer.py")), kind, str(model), str(threads)]
        self.names = names
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.spent = (0.0, 0.0)

    def __call__(self, texts: list[str]) -> Floats:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(texts), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        self.spent = answer["wall"], answer["cpu"]
        return np.asarray([[row[name] for name in self.names] for row in answer["scores"]], np.float32)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("rows_file")
    parser.add_argument("--rows", type=int, default=500, help="random rows that are timed")
    parser.add_argument("--checked", type=int, default=0, help="random rows whose probabilities are compared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--infinity", help="a Python that has infinity_emb")
    parser.add_argument("--cross-encoder", help="a Python that has sentence_transformers")
    parser.add_argument("--only", nargs="*", help="names of peers to run, beside ours")
    parser.add_argument("--text", default="text")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    every = read_table(args.rows_file)[args.text].to_pylist()
    every = [every[i] for i in np.random.default_rng(0).permutation(len(every))]
    network, encoding, info = load_artifact(find_artifact(args.artifact))
    network.eval()
    pad, names = info.pad_token_id, info.space.names
    runtimes = {
        "rayclf torch fp32": TorchRuntime(network, pad),
        OURS["fp32"]: OnnxRuntime(network, pad, threads=args.threads),
        OURS["int8"]: OnnxRuntime(network, pad, precision="int8", threads=args.threads),
    }
    runs: dict[str, Run] = {name: lambda rows, r=runtime: r(encoding(rows)) for name, runtime in runtimes.items()}
    with tempfile.TemporaryDirectory() as folder:
        exported = rayclf.export(args.artifact, Path(folder) / "exported")
        wanted = {"pipeline": (sys.executable, "pipeline"), "Infinity fp32": (args.infinity, "infinity")}
        wanted |= {"CrossEncoder fp32": (args.cross_encoder, "cross-encoder")}
        for name, (python, kind) in wanted.items():
            if python and is_wanted(name, args.only):
                runs[name] = Process(python, kind, exported, args.threads, names)
        here = make_peers(Path(folder), exported, encoding, pad, args)
        runs |= {name: run for name, run in here if is_wanted(name, args.only)}
        seconds = {name: [] for name in runs}
        for run in runs.values():
            run(every[:64])
        for number in range(args.rounds):
            for name, run in runs.items():
                seconds[name].append(spend(run, every[: args.rows]))
            rates = {name: round(args.rows / times[-1][1], 1) for name, times in seconds.items()}
            print(f"round {number + 1}, rows/s of processor: {rates}", flush=True)
        checked = every[: args.checked]
        answers = {name: np.asarray(run(checked)) for name, run in runs.items()} if checked else {}
        for run in runs.values():
            if isinstance(run, Process):
                run.process.kill()
    found = {n: x if isinstance(runs[n], Process) else info.space.probabilities(x) for n, x in answers.items()}
    report(seconds, args.rows, found)


def is_wanted(name: str, only: list[str] | None) -> bool:
    """Whether a peer is to run."""
    return only is None or name in only


def spend(run: Run, texts: list[str]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    run(texts)
    return run.spent if isinstance(run, Process) else (time.perf_counter() - wall, time.process_time() - cpu)


def make_peers(
    folder: Path, exported: Path, encoding: Callable, pad: int, args: argparse.Namespace
) -> Iterator[tuple[str, Run]]:
    """The peers in this process."""
    model = AutoModelForSequenceClassification.from_pretrained(exported).eval()

    def with_torch(ids: torch.Tensor, mask: torch.Tensor, model: Callable = model) -> Floats:
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask).logits.numpy()

    yield "torch sorted fp32", by_length(with_torch, encoding, pad)
    if args.only and "torch.compile sorted fp32" in args.only:  # asked for by name: it takes minutes
        compiled = torch.compile(model, dynamic=True)
        yield "torch.compile sorted fp32", by_length(partial(with_torch, model=compiled), encoding, pad)
    for name, file in export_onnx(folder, exported).items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

        def with_onnx(ids: torch.Tensor, mask: torch.Tensor, session: onnxruntime.InferenceSession = session) -> Floats:
            feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
            names = {i.name: np.int32 if "int32" in i.type else np.int64 for i in session.get_inputs()}
            return session.run(None, {key: feed[key].astype(kind) for key, kind in names.items()})[0]

        yield name, by_length(with_onnx, encoding, pad)


def by_length(batch: Batch, encoding: Callable, pad: int, size: int = 32) -> Run:
    """The usual loop: batches of ``size`` rows sorted by length, longest first, padded."""

    def run(texts: list[str]) -> Floats:
        ids = encoding(texts)
        order = np.argsort([-len(row) for row in ids], kind="stable")
        found = [batch(*pad_batch([ids[i] for i in order[at : at + size]], pad)) for at in range(0, len(ids), size)]
        joined = np.concatenate(found)
        result = np.empty_like(joined)
        result[order] = joined
        return result

    return run


def export_onnx(folder: Path, exported: Path) -> dict[str, Path]:
    """Plain exports of the whole model, in float32 and quantised by ONNX Runtime's own tools."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    files = {"onnxruntime fp32": folder / "plain.onnx"}
    model = AutoModelForSequenceClassification.from_pretrained(exported, attn_implementation="eager").eval()
    model.config.return_dict = False
    example = torch.ones(2, 9, dtype=torch.long)
    names = ["input_ids", "attention_mask"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example, example),
            str(files["onnxruntime fp32"]),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "rows", 1: "length"} for name in names},
            opset_version=17,
            dynamo=False,
        )
    try:
        from onnxruntime.transformers import optimizer

        config = model.config
        fused = optimizer.optimize_model(
            str(files["onnxruntime fp32"]),
            model_type="bert",
            num_heads=config.num_attention_heads,
            hidden_size=config.hidden_size,
        )
        print("fused:", {name: count for name, count in fused.get_fused_operator_statistics().items() if count})
        files["onnxruntime fused fp32"] = folder / "fused.onnx"
        fused.save_model_to_file(str(files["onnxruntime fused fp32"]))
    except ImportError as error:
        print(f"no fused peers: {error}")
    for name, source in list(files.items()):
        for kind, per_channel in (("int8", False), ("int8 per channel", True)):
            quantised = name.replace("fp32", kind)
            files[quantised] = folder / f"{quantised.replace(' ', '-')}.onnx"
            quantize_dynamic(
                str(source),
                str(files[quantised]),
                weight_type=QuantType.QInt8,
                per_channel=per_channel,
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
    return files


def report(seconds: dict[str, list[tuple[float, float]]], rows: int, probabilities: dict[str, Floats]) -> None:
    """Print one line a runtime, and the ratios that count."""
    spent = {name: np.asarray(times) for name, times in seconds.items()}  # [rounds, clock and processor]
    print(f"{'':34}rows/s of processor   clock   largest difference   same label")
    for name, times in sorted(spent.items(), key=lambda item: median(item[1][:, 1])):
        told = ""
        if len(found := probabilities.get(name, ())):
            expected = probabilities["rayclf torch fp32"]
            same = np.mean(found.argmax(axis=1) == expected.argmax(axis=1))
            told = f"{np.abs(found - expected).max():20.1e} {same:13.2%}"
        print(f"{name:34}{rows / median(times[:, 1]):19.1f} {rows / median(times[:, 0]):7.1f} {told}")
    for precision, ours in OURS.items():
        peers = [name for name in spent if not name.startswith("rayclf") and precision in name]
        best = [min(peers, key=lambda n: median(spent[n][:, 1]))] if peers else []
        for peer in [*best, "pipeline"]:
            if peer in spent:
                clock, processor = np.median(spent[peer] / spent[ours], axis=0)
                print(f"{ours} is {processor:.2f} x {peer} by processor, {clock:.2f} x by clock")


if __name__ == "__main__":
    main()
