"""The runtimes of an encoder on a CPU against their peers: the same artifact, rows, threads and process, by turns.

    taskset -c 1 python tests/benchmarks/runtimes.py ARTIFACT ROWS.csv [--rows 1000] [--rounds 5]

Peers: ``transformers.pipeline`` (batches of 32 as they come); a PyTorch loop over padded batches of 32 sorted by
length; ONNX Runtime on a plain export of the whole model, as it is, after the fusions of
``onnxruntime.transformers.optimizer``, and with its own ``quantize_dynamic`` (8-bit weights, one scale a layer or one
an output; of the plain and of the fused graph). Tokenizing is in every time. A round runs each once; told are medians
of rows/s, and medians over the rounds of the ratios of ours to the best peer of the same precision and to the pipeline.
Differences are between probabilities, against the exported model in a plain PyTorch loop.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from onnx import TensorProto
from transformers import AutoModelForSequenceClassification, pipeline

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


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("rows_file")
    parser.add_argument("--rows", type=int, default=1000, help="random rows that are timed")
    parser.add_argument("--checked", type=int, help="rows whose probabilities are compared; all when unset")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of peers to run, beside ours")
    parser.add_argument("--text", default="text")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    every = read_table(args.rows_file)[args.text].to_pylist()
    chosen = np.random.default_rng(0).permutation(len(every))[: args.rows]
    texts = [every[i] for i in chosen]
    network, encoding, info = load_artifact(find_artifact(args.artifact))
    network.eval()
    pad = info.pad_token_id
    ours = {
        "rayclf torch fp32": TorchRuntime(network, pad),
        "rayclf onnx fp32": OnnxRuntime(network, pad, threads=args.threads),
        "rayclf onnx int8": OnnxRuntime(network, pad, precision="int8", threads=args.threads),
    }
    runs: dict[str, Run] = {name: lambda rows, r=runtime: r(encoding(rows)) for name, runtime in ours.items()}
    with tempfile.TemporaryDirectory() as folder:
        peers = make_peers(Path(folder), args.artifact, encoding, pad, args.threads, info.max_length)
        runs |= {name: run for name, run in peers.items() if not args.only or name in args.only}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run(texts[:64])
        for _ in range(args.rounds):
            for name, run in runs.items():
                started = time.perf_counter()
                run(texts)
                seconds[name].append(time.perf_counter() - started)
        answers = {name: run(every[: args.checked]) for name, run in runs.items() if name != "pipeline"}
    report(seconds, len(texts), {name: info.space.probabilities(found) for name, found in answers.items()})


def make_peers(folder: Path, artifact: str, encoding: Callable, pad: int, threads: int, longest: int) -> dict[str, Run]:
    """Every peer by name; those that are not installed are left out."""
    exported = rayclf.export(artifact, folder / "exported")
    model = AutoModelForSequenceClassification.from_pretrained(exported).eval()
    pipe = pipeline("text-classification", model=str(exported), top_k=None, device="cpu")

    def with_torch(ids: torch.Tensor, mask: torch.Tensor) -> Floats:
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask).logits.numpy()

    def with_pipeline(texts: list[str]) -> Floats:
        list(pipe(texts, batch_size=32, truncation=True, max_length=longest))
        return np.empty(0, np.float32)

    runs: dict[str, Run] = {"pipeline": with_pipeline, "torch sorted fp32": by_length(with_torch, encoding, pad)}
    for name, file in export_onnx(folder, exported).items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

        def with_onnx(ids: torch.Tensor, mask: torch.Tensor, session: onnxruntime.InferenceSession = session) -> Floats:
            feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
            names = {i.name: np.int32 if "int32" in i.type else np.int64 for i in session.get_inputs()}
            return session.run(None, {key: feed[key].astype(kind) for key, kind in names.items()})[0]

        runs[name] = by_length(with_onnx, encoding, pad)
    return runs


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


def report(seconds: dict[str, list[float]], rows: int, probabilities: dict[str, Floats]) -> None:
    """Print one line a runtime, and the ratios that count."""
    expected = probabilities.get("torch sorted fp32", probabilities["rayclf torch fp32"])
    print(f"{'':36}rows/s   largest difference   same label")
    for name, times in sorted(seconds.items(), key=lambda item: median(item[1])):
        told = ""
        if name in probabilities:
            same = np.mean(probabilities[name].argmax(axis=1) == expected.argmax(axis=1))
            told = f"{np.abs(probabilities[name] - expected).max():20.1e} {same:12.2%}"
        print(f"{name:34}{rows / median(times):8.1f}{told}")
    for precision in ("fp32", "int8"):
        peers = [n for n in seconds if not n.startswith("rayclf") and precision in n]
        ours = f"rayclf onnx {precision}"
        for peer in [min(peers, key=lambda n: median(seconds[n])) if peers else "", "pipeline"]:
            if peer in seconds:
                ratio = median(theirs / own for theirs, own in zip(seconds[peer], seconds[ours], strict=True))
                print(f"{ours} is {ratio:.2f} x {peer}")


if __name__ == "__main__":
    main()
