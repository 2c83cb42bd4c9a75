"""Training through Ray Train: what a run holds, every row seen once, the best checkpoint kept."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

import rayclf
from rayclf.errors import OutputError, RayclfError, ResourceError
from rayclf.storage import read_json


def steps(run: rayclf.Run) -> list[dict[str, float]]:
    return [event for event in run.events if event["kind"] == "step"]


def test_the_run_folder_holds_what_the_design_promises(run: rayclf.Run) -> None:
    names = {path.name for path in run.folder.iterdir()}
    assert {"config.yaml", "labels.json", "metrics.jsonl", "checkpoints", "artifact", "report.html"} <= names
    assert run.status["state"] == "done"
    assert run.status["step"] == steps(run)[-1]["step"]
    assert run.status["started"] <= read_json(run.artifact / "rayclf.json")["created"] <= run.status["ended"]
    config = rayclf.load_config(run.folder / "config.yaml")
    assert config.model.method in ("full", "lora")  # resolved, not auto
    assert rayclf.LabelSpace.from_json(read_json(run.folder / "labels.json")).names
    assert not [path for path in run.folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pickle")]
    report = (run.folder / "report.html").read_text()
    assert "<svg" in report
    assert "http" not in report.replace("http://www.w3.org", "")  # needs nothing else


def test_defaults_follow_the_backbone(encoder_run: rayclf.Run, decoder_run: rayclf.Run) -> None:
    encoder, decoder = (rayclf.load_config(run.folder / "config.yaml") for run in (encoder_run, decoder_run))
    assert (encoder.model.method, decoder.model.method) == ("full", "lora")
    assert encoder.train.head_rows == 5_120
    assert (encoder.data.text, encoder.data.label) == ("question", "subject")  # found by name
    assert encoder.labels.problem_type is rayclf.ProblemType.MULTICLASS
    assert (encoder_run.artifact / "backbone" / "model.safetensors").is_file()
    assert (decoder_run.artifact / "adapter" / "adapter_model.safetensors").is_file()


def test_the_head_is_fitted_before_the_first_step(run: rayclf.Run) -> None:
    fitted = next(event for event in run.events if event["kind"] == "head")
    assert run.events.index(fitted) < run.events.index(steps(run)[0])
    assert fitted["loss"] < fitted["loss_before"]
    asked = run.config.train.head_rows or 0
    assert fitted["rows"] == min(run.status["rows"]["train"], asked - asked % run.config.train.batch_size)
    if fitted["rows"] == run.status["rows"]["train"]:  # of other rows, what is learnt of a random model is chance
        assert steps(run)[0]["loss"] < fitted["loss_before"]


def test_every_epoch_sees_every_row_once(run: rayclf.Run) -> None:
    rows = run.status["rows"]["train"]
    epochs = {event["epoch"] for event in steps(run)}
    for epoch in epochs:
        assert sum(event["rows"] for event in steps(run) if event["epoch"] == epoch) == rows


def test_two_workers_have_uneven_shards_to_share(decoder_run: rayclf.Run) -> None:
    assert decoder_run.status["rows"]["train"] % 2 == 1  # or the test above could not fail by dropped rows


def test_training_learns(encoder_run: rayclf.Run) -> None:
    losses = [event["loss"] for event in steps(encoder_run)]
    # Of the rows it sees: what a tiny random model makes of others is chance, and chance differs between machines.
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_the_artifact_is_the_best_epoch(encoder_run: rayclf.Run) -> None:
    validations = [event for event in encoder_run.events if event.get("part") == "validation"]
    baseline, head, *by_epoch, final = validations
    assert (baseline["step"], head["step"]) == (0, 0)
    assert "head" not in baseline
    assert head["head"]
    assert head["log_loss"] != baseline["log_loss"]  # not "<": these are rows that the head has not seen
    assert final["final"]
    assert len(by_epoch) == 6
    assert encoder_run.metrics["validation"]["f1_macro"] == max(event["f1_macro"] for event in by_epoch)
    assert len(list((encoder_run.folder / "checkpoints").glob("checkpoint_*/"))) <= 2  # the best, and the latest


def test_no_process_starts_that_a_local_ray_has_no_use_for(run: rayclf.Run) -> None:
    assert run.status["state"] == "done"
    started = {actor["ActorClassName"] for actor in ray._private.state.actors().values()}  # the dead ones too
    assert "TrainController" in started
    assert "PreemptionWatcher" not in started
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in os.environ  # or a cluster joined from here would have none


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_nothing(
    decoder_run: rayclf.Run,
    few_messages: Path,
    backbone: Callable[[str], Path],
    decoder_overrides: dict[str, object],
    tmp_path: Path,
    workers: int,
) -> None:
    settings = decoder_overrides | {"resources.workers": workers, "resources.cpus_per_worker": 0.25}
    other = rayclf.train(few_messages, tmp_path / "other", backbone=str(backbone("llama")), overrides=settings)
    for name in ("loss", "grad_norm", "rows"):
        assert [e[name] for e in steps(other)] == pytest.approx([e[name] for e in steps(decoder_run)], abs=1e-5)
    for part, metrics in decoder_run.metrics.items():
        assert other.metrics[part]["log_loss"] == pytest.approx(metrics["log_loss"], abs=1e-5)


def test_zero_is_another_way_to_the_same_numbers(
    decoder_run: rayclf.Run,
    few_messages: Path,
    backbone: Callable[[str], Path],
    decoder_overrides: dict[str, object],
    tmp_path: Path,
) -> None:
    settings = decoder_overrides | {"train.strategy": "deepspeed-zero3"}
    other = rayclf.train(few_messages, tmp_path / "other", backbone=str(backbone("llama")), overrides=settings)
    assert other.status["strategy"] == "deepspeed-zero3"
    for name in ("loss", "grad_norm", "rows"):
        assert [e[name] for e in steps(other)] == pytest.approx([e[name] for e in steps(decoder_run)], abs=1e-4)
    assert other.metrics["test"]["log_loss"] == pytest.approx(decoder_run.metrics["test"]["log_loss"], abs=1e-4)


def test_qlora_trains_packed_and_is_tested_as_it_is_loaded(
    cluster: None,
    few_messages: Path,
    backbone: Callable[[str], Path],
    decoder_overrides: dict[str, object],
    tmp_path: Path,
) -> None:
    settings = decoder_overrides | {
        "model.method": "qlora",
        "train.batching": "packed",
        "train.gradient_checkpointing": True,
        "train.loss": "asymmetric",
        "train.epochs": 2,
        "data.validation": 0.4,
        "evaluation.patience": 1,
        "resources.workers": 1,
    }
    run = rayclf.train(few_messages, tmp_path / "run", backbone=str(backbone("llama")), overrides=settings)
    losses = [event["loss"] for event in steps(run)]
    assert losses[-1] < losses[0]
    info = read_json(run.artifact / "rayclf.json")
    assert (info["tuning"], info["quantization"]) == ("lora", "nf4")
    assert len(set(info["thresholds"])) > 1  # tuned, a label each
    # Live, on 4-bit weights, and loaded, on the floats that they stand for: the same numbers.
    live = [e for e in run.events if e.get("part") == "validation" and e["step"] and not e.get("final")]
    told = run.metrics["validation"]["uncalibrated"]["log_loss"]
    assert min(abs(event["log_loss"] - told) for event in live) < 1e-4


def test_training_is_measured_before_and_after(encoder_run: rayclf.Run) -> None:
    baseline = next(event for event in encoder_run.events if event["kind"] == "evaluation")
    assert (baseline["step"], baseline["part"]) == (0, "validation")
    assert {"validation", "train", "test"} <= set(encoder_run.metrics)
    test = encoder_run.metrics["test"]
    interval = test["interval"]
    assert interval["metric"] == "f1_macro"
    assert interval["low"] <= test["f1_macro"] <= interval["high"]
    assert "ece" in test["uncalibrated"]
    assert "accuracy" not in test["uncalibrated"]  # a temperature changes no decision
    assert 0 < test["binary_match"] < 1  # the user's own metric
    assert baseline["binary_match"] != test["binary_match"]
    assert list((encoder_run.folder / "tensorboard").glob("events.*"))
    info = read_json(encoder_run.artifact / "rayclf.json")
    assert info["temperature"] != 1
    for name in ("curves.json", "mistakes.json", "samples.jsonl", "charts"):
        assert (encoder_run.folder / name).exists(), name


def test_texts_stay_out_of_everything_unless_asked_for(encoder_run: rayclf.Run) -> None:
    some_text = pq.read_table(encoder_run.folder / "data" / "test")["text"][0].as_py()
    for file in encoder_run.folder.iterdir():
        if file.is_file():
            assert some_text.encode() not in file.read_bytes(), file.name


def test_predictions_are_kept_for_every_test_row(run: rayclf.Run) -> None:
    table = pq.read_table(run.folder / "predictions.parquet")
    assert table.num_rows == run.status["rows"]["test"] == run.metrics["test"]["rows"]
    assert len(set(table["id"].to_pylist())) == table.num_rows


def test_an_existing_run_is_not_overwritten(run: rayclf.Run, few_messages: Path) -> None:
    before = run.status
    with pytest.raises(OutputError, match="--overwrite"):
        rayclf.train(few_messages, run.folder)
    assert run.status == before


def test_a_run_that_is_stopped_before_its_workers_start_says_so(
    cluster: None, few_messages: Path, backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "start":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rayclf.train(few_messages, tmp_path / "run", backbone=str(backbone("bert")), on_event=stop)
    assert rayclf.Run(tmp_path / "run").status["state"] == "stopped"


def test_more_workers_than_cpus_are_refused_at_once(
    cluster: None, few_messages: Path, backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ResourceError, match=r"resources\.workers"):
        rayclf.train(few_messages, tmp_path / "x", backbone=str(backbone("bert")), overrides={"resources.workers": 16})
    assert not (tmp_path / "x").exists()


def test_a_failure_in_a_worker_is_one_line_and_recorded(
    cluster: None, few_messages: Path, write_tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tiny("bert")
    from rayclf.training import driver

    plan = driver.plan_model

    def then_damage(*args: object) -> object:
        made = plan(*args)  # type: ignore[arg-type]
        weights = source / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        return made

    monkeypatch.setattr(driver, "plan_model", then_damage)
    with pytest.raises(RayclfError, match="cannot be loaded") as caught:
        rayclf.train(few_messages, tmp_path / "x", backbone=str(source))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()  # with another backbone the same command finds its place free


def test_a_terminal_that_has_gone_stops_a_run(
    cluster: None,
    few_messages: Path,
    backbone: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with ``| head``: rich ends the program, which is no error of the training."""

    def fit(run: rayclf.Run, *rest: object) -> None:
        line = {"kind": "step", "step": 3, "epoch": 1}
        (run.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        raise SystemExit(1)

    monkeypatch.setattr("rayclf.training.fit.fit", fit)
    with pytest.raises(SystemExit):
        rayclf.train(few_messages, tmp_path / "x", backbone=str(backbone("bert")))
    status = rayclf.Run(tmp_path / "x").status
    assert (status["state"], status["error"], status["step"], status["epoch"]) == ("stopped", None, 3, 1)


def test_a_training_without_room_tells_what_it_waits_for(
    cluster: None,
    few_messages: Path,
    backbone: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rayclf.training.room.FIRST_S", 1.0)
    cpus = ray.cluster_resources()["CPU"]
    other = ray.remote(num_cpus=cpus)(threading.Event).remote()
    ray.get(other.is_set.remote())
    safety = threading.Timer(60, ray.kill, [other])
    safety.start()
    waited: list[dict[str, object]] = []

    def watch(event: dict[str, object]) -> None:
        if event["kind"] == "waiting":
            waited.append(event)
            ray.kill(other)

    run = rayclf.train(
        few_messages,
        tmp_path / "run",
        backbone=str(backbone("bert")),
        overrides={"train.epochs": 1, "resources.cpus_per_worker": 0.5, "data.validation": 0},
        on_event=watch,
    )
    safety.cancel()
    told = {"needed": "1 worker(s), each with 0.5 CPU", "free": f"0 of {cpus:g} CPU"}
    assert waited[:1] == [{"kind": "waiting", **told}]
    assert run.status["state"] == "done"
