"""Fine-tuning against the plain Hugging Face Trainer: the same rows, backbone, epochs and batch, the same rates tried.

    python tests/benchmarks/train.py TRAIN VALIDATION [--learning-rates 1e-4,2e-4] [--lora] [--group-by-length] \
        [--set train.dropout=0.1]

For each seed and learning rate the peer and then rayclf train, each in a process of its own with the same number of
threads, and are judged on the validation file by the same code: accuracy, or macro-F1 of a multilabel task at 0.5 and,
for rayclf, at its tuned thresholds (for which a tenth of the training rows is held out). ``--unknown FILE`` has rows
that belong to no label: the AUROC of the highest probability tells them from the others. Rates count the training loop
alone (for rayclf with its wait for data and what its head takes before), not the start of processes nor evaluation. The
last lines have each side's best rate, its 95 % interval, and the median ratio of training rows per second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rayclf.bootstrap import Outcomes
from rayclf.data.rows import read_labelled
from rayclf.labels import LabelSpace, ProblemType, dense_targets
from rayclf.metrics import MetricState


def peer(args: argparse.Namespace, rate: float, seed: int) -> dict[str, Any]:
    """The plain Trainer with its defaults, or with PEFT's LoRA and batches of like length where asked."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from rayclf.model.backbone_files import fetch

    torch.set_num_threads(args.threads)
    train = read_labelled(args.train)
    space = train.space
    folder = fetch(args.backbone)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(space), problem_type=space.problem_type.transformers
    )
    if args.lora:
        import peft

        settings = peft.LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules="all-linear")
        model = peft.get_peft_model(model, settings)

    def rows(texts: list[str], targets: Any = None) -> list[dict[str, Any]]:
        encoded = tokenizer(texts, truncation=True, max_length=args.max_length)["input_ids"]
        if targets is None:
            return [{"input_ids": ids} for ids in encoded]
        single = space.problem_type is ProblemType.MULTICLASS
        labels = targets.argmax(axis=1).tolist() if single else targets.tolist()
        return [{"input_ids": ids, "labels": label} for ids, label in zip(encoded, labels, strict=True)]

    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                out,
                num_train_epochs=args.epochs,
                learning_rate=rate,
                per_device_train_batch_size=args.batch_size,
                per_device_eval_batch_size=args.batch_size,
                train_sampling_strategy="group_by_length" if args.group_by_length else "random",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                seed=seed,
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=torch.cuda.is_available(),
            ),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=rows(train.table["text"].to_pylist(), targets_of(train.table, space)),
        )
        result = trainer.train()
        trainer.args.train_sampling_strategy = "random"  # else it predicts in the order of lengths, and does not say so

        def probabilities(texts: list[str]) -> np.ndarray[Any, Any]:
            return space.probabilities(np.asarray(trainer.predict(rows(texts)).predictions, np.float32))

        return judged(args, space, probabilities) | {
            "rows_per_second": args.epochs * train.table.num_rows / result.metrics["train_runtime"]
        }


def ours(args: argparse.Namespace, rate: float, seed: int) -> dict[str, Any]:
    """rayclf; nothing of the training file is held out but the tenth that thresholds are tuned on."""
    import rayclf

    space = read_labelled(args.train).space
    multiclass = space.problem_type is ProblemType.MULTICLASS
    with tempfile.TemporaryDirectory() as out:
        run = rayclf.train(
            args.train,
            Path(out) / "run",
            backbone=args.backbone,
            overrides={
                "data.validation": 0 if multiclass else 0.1,
                "data.test": 0,
                "model.max_length": args.max_length,
                "model.method": "lora" if args.lora else "full",
                "train.epochs": args.epochs,
                "train.learning_rate": rate,
                "train.batch_size": args.batch_size,
                "train.seed": seed,
                "evaluation.baseline": False,
                "evaluation.training_rows": 0,
                "resources.threads": args.threads,
            }
            | dict(setting.split("=", 1) for setting in args.set),
        )
        last = {event["epoch"]: event for event in run.events if event["kind"] == "step"}
        rows = run.status["rows"]["train"]
        seconds = sum(rows / event["rows_per_second"] for event in last.values())
        seconds += sum(event["seconds"] for event in run.events if event["kind"] == "head")
        classifier = rayclf.Classifier.load(run.artifact)
        thresholds = None if multiclass else np.asarray(classifier.info.thresholds, np.float32)
        found = judged(args, classifier.space, classifier.probabilities, thresholds)
        return found | {"rows_per_second": len(last) * rows / seconds}


def targets_of(table: Any, space: LabelSpace) -> Any:
    """Dense targets of canonical rows."""
    return dense_targets(table["positive"].combine_chunks(), table["unknown"].combine_chunks(), len(space))


def judged(args: argparse.Namespace, space: LabelSpace, probabilities: Any, tuned: Any = None) -> dict[str, Any]:
    """Both sides' metrics of the validation file, by one code."""
    rows = read_labelled(args.validation, space=space).table
    chances, targets = probabilities(rows["text"].to_pylist()), targets_of(rows, space)
    name = "accuracy" if space.problem_type is ProblemType.MULTICLASS else "f1_macro"
    result: dict[str, Any] = {"metric": name}
    for kind, thresholds in (("", np.full(len(space), 0.5, np.float32)), ("tuned", tuned)):
        if thresholds is None:
            continue
        state, outcomes = MetricState(space, thresholds), Outcomes(space, thresholds)
        state.update(chances, targets)
        outcomes.update(chances, targets)
        result["value" + kind] = state.compute()[name]
        result["interval" + kind] = outcomes.confidence_interval(name, 1000, 0)
    if args.unknown:
        from sklearn.metrics import roc_auc_score

        texts = [json.loads(line)["prompt"] for line in Path(args.unknown).read_text().splitlines()]
        strange = probabilities(texts).max(axis=1)
        known = chances.max(axis=1)
        result["unknown_auroc"] = roc_auc_score([1] * len(known) + [0] * len(strange), np.concatenate([known, strange]))
    return result


def main() -> None:
    """Run the pairs and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("validation")
    parser.add_argument("--unknown", help="JSONL with prompts that belong to no label")
    parser.add_argument("--backbone", default=None)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rates", default="1e-4")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--group-by-length", action="store_true", help="of the peer's batches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", default="17")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of rayclf's configuration")
    parser.add_argument("--only", choices=["peer", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        found = {"peer": peer, "ours": ours}[args.only](args, float(args.learning_rates), int(args.seeds))
        print(json.dumps(found))
        return
    results: dict[str, list[dict[str, Any]]] = {"peer": [], "ours": []}
    for seed in args.seeds.split(","):
        for rate in args.learning_rates.split(","):
            for who, done in results.items():
                command = [sys.executable, __file__, *sys.argv[1:], "--seeds", seed, "--learning-rates", rate]
                output = subprocess.run([*command, "--only", who], check=True, stdout=subprocess.PIPE, text=True).stdout
                done.append(json.loads(output.splitlines()[-1]) | {"rate": rate, "seed": seed})
                print(who, json.dumps(done[-1]), flush=True)
    for who, done in results.items():
        best = max(done, key=lambda one: one.get("valuetuned", one["value"]))
        print(f"{who}: best at {best['rate']}: {json.dumps(best)}")
    pairs = zip(results["ours"], results["peer"], strict=True)
    ratios = [mine["rows_per_second"] / theirs["rows_per_second"] for mine, theirs in pairs]
    print(f"median ratio of rows/s: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
