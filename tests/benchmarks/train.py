"""Fine-tuning against the plain Hugging Face Trainer: the same rows, backbone, epochs, batch and learning rate.

    python tests/benchmarks/train.py TRAIN.csv VALIDATION.csv [--epochs 2] [--seeds 17,18]

Each seed trains the peer and then rayclf, each in a process of its own with the same number of threads, and prints
accuracy on the validation file and training rows per second; the last line has the medians and the ratio. Rates count
the training loop alone (for rayclf with its wait for data), not the start of processes nor evaluation.
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


def peer(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """The plain Trainer, with its defaults."""
    import numpy as np
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from rayclf.data.rows import read_labelled
    from rayclf.model.backbone import fetch

    torch.set_num_threads(args.threads)
    train = read_labelled(args.train)
    test = read_labelled(args.validation, space=train.space)
    folder = fetch(args.backbone)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(train.space))

    def rows(table: Any) -> list[dict[str, Any]]:
        encoded = tokenizer(table["text"].to_pylist(), truncation=True, max_length=args.max_length)["input_ids"]
        labels = [positive[0] for positive in table["positive"].to_pylist()]
        return [{"input_ids": ids, "label": label} for ids, label in zip(encoded, labels, strict=True)]

    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                out,
                num_train_epochs=args.epochs,
                learning_rate=args.learning_rate,
                per_device_train_batch_size=args.batch_size,
                per_device_eval_batch_size=args.batch_size,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                seed=seed,
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=torch.cuda.is_available(),
            ),
            train_dataset=rows(train.table),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        result = trainer.train()
        held_out = rows(test.table)
        predicted = trainer.predict(held_out).predictions.argmax(axis=1)
    return {
        "accuracy": float(np.mean(predicted == [row["label"] for row in held_out])),
        "rows_per_second": args.epochs * train.table.num_rows / result.metrics["train_runtime"],
    }


def ours(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """rayclf, the validation file as the test part and no other held out."""
    import rayclf

    with tempfile.TemporaryDirectory() as out:
        run = rayclf.train(
            args.train,
            Path(out) / "run",
            test=args.validation,
            backbone=args.backbone,
            overrides={
                "data.validation": 0,
                "model.max_length": args.max_length,
                "train.epochs": args.epochs,
                "train.learning_rate": args.learning_rate,
                "train.batch_size": args.batch_size,
                "train.seed": seed,
                "resources.threads": args.threads,
            },
        )
        last = {event["epoch"]: event for event in run.events if event["kind"] == "step"}
        rows = run.status["rows"]["train"]
        seconds = sum(rows / event["rows_per_second"] for event in last.values())
        return {"accuracy": run.metrics["test"]["accuracy"], "rows_per_second": len(last) * rows / seconds}


def main() -> None:
    """Run the pairs and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("validation")
    parser.add_argument("--backbone", default=None)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", default="17")
    parser.add_argument("--only", choices=["peer", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps({"peer": peer, "ours": ours}[args.only](args, int(args.seeds))))
        return
    results: dict[str, list[dict[str, float]]] = {"peer": [], "ours": []}
    for seed in args.seeds.split(","):
        for who, done in results.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--seeds", seed, "--only", who]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            done.append(json.loads(output.splitlines()[-1]))
            print(
                f"seed {seed}  {who}  accuracy {done[-1]['accuracy']:.4f}  {done[-1]['rows_per_second']:.1f} rows/s",
                flush=True,
            )
    median = {
        who: {name: statistics.median(one[name] for one in done) for name in done[0]} for who, done in results.items()
    }
    ratio = statistics.median(
        o["rows_per_second"] / p["rows_per_second"] for o, p in zip(results["ours"], results["peer"], strict=True)
    )
    print(f"median accuracy: peer {median['peer']['accuracy']:.4f}, ours {median['ours']['accuracy']:.4f}")
    print(f"median ratio of rows/s: {ratio:.2f}")


if __name__ == "__main__":
    main()
