"""``rayclf data prepare``"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rayclf.cli.options import (
    Json,
    LabelColumn,
    LabelsFile,
    Messages,
    Separator,
    Set,
    Template,
    TextColumn,
    TextPair,
    YamlFile,
    ask_column,
    check_lasts,
    check_there,
    collect,
    column_flags,
)

_FLAGS = {  # in the order of the questions and of the command that is printed
    "data.text": "--text",
    "data.text_pair": "--text-pair",
    "data.template": "--template",
    "data.messages": "--messages",
    "data.label": "--label",
    "data.separator": "--separator",
    "labels.file": "--labels",
    "labels.problem_type": "--problem-type",
    "data.split": "--split",
    "data.split_column": "--split-column",
    "data.test": "--test-share",
    "data.validation": "--validation-share",
    "data.downsample": "--downsample",
    "data.rebalance": "--rebalance",
    "data.on_error": "--on-error",
    "data.max_rejected": "--max-rejected",
    "train.seed": "--seed",
}


def prepare(
    data: Annotated[str, typer.Argument(help="Labelled file, folder or glob, local or remote.", show_default=False)],
    output: Annotated[
        str, typer.Option("-o", "--output", callback=check_lasts, help="Folder to write.", show_default=False)
    ],
    test: Annotated[str | None, typer.Option(help="Test rows; else a share of DATA is held out.")] = None,
    text: TextColumn = None,
    text_pair: TextPair = None,
    template: Template = None,
    messages: Messages = None,
    label: LabelColumn = None,
    separator: Separator = None,
    labels: LabelsFile = None,
    problem_type: Annotated[str | None, typer.Option(help="binary, multiclass or multilabel; else inferred.")] = None,
    split: Annotated[str | None, typer.Option(help="stratified, random, group or time.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Column that group and time go by.")] = None,
    test_share: Annotated[float | None, typer.Option(help="Share of the rows for the test; 0 for none.")] = None,
    validation_share: Annotated[float | None, typer.Option(help="Share that chooses checkpoints; 0 for none.")] = None,
    shuffle: Annotated[bool | None, typer.Option("--shuffle/--no-shuffle", help="Mix the training rows.")] = None,
    downsample: Annotated[float | None, typer.Option(help="Keep this share or number of training rows.")] = None,
    rebalance: Annotated[
        str | None, typer.Option(help='Shares or counts of labels in training: \'{"cat": 0.3, "dog": 0.7}\'.')
    ] = None,
    on_error: Annotated[str | None, typer.Option(help="quarantine or fail.")] = None,
    max_rejected: Annotated[float | None, typer.Option(help="Share of rows that may be set aside.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, shuffle and choice of rows.")] = None,
    config: YamlFile = None,
    set_: Set = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing data set.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Take the default of every question.")] = False,
    json: Json = False,
) -> None:
    """Part, check and write labelled data; asks what it cannot infer.

    Example: rayclf data prepare tickets.csv -o data/tickets --yes
    """
    check_there(data, test, config, labels)
    from rayclf.cli import show
    from rayclf.cli.progress_views import PrepareView
    from rayclf.cli.questions import Questions
    from rayclf.config_file import load_config, parse_override
    from rayclf.data.prepare import check_output
    from rayclf.data.prepare import prepare as write
    from rayclf.errors import AmbiguousColumn

    columns = column_flags(text, text_pair, template, messages, label, separator, labels)
    flags = {
        **columns,
        "labels.problem_type": problem_type,
        "data.split": split,
        "data.split_column": split_column,
        "data.test": test_share,
        "data.validation": validation_share,
        "data.shuffle": shuffle,
        "data.downsample": downsample,
        "data.rebalance": parse_override(f"data.rebalance={rebalance}")[1] if rebalance else None,
        "data.on_error": on_error,
        "data.max_rejected": max_rejected,
        "train.seed": seed,
        "output.overwrite": overwrite or None,
    }
    overrides = collect(set_, flags)
    asks = _has_terminal() and not yes and not json
    check_output(output, load_config(config, overrides).output.overwrite, (data, test))
    questions = Questions(data, config, asks=asks, defaults=yes)
    while True:
        try:
            overrides |= questions.answers(overrides, test_given=test is not None)
            break
        except AmbiguousColumn as error:
            if not asks:
                raise
            overrides |= {f"data.{error.flag[2:]}": ask_column(error.flag, error.candidates)}
    with PrepareView(confirm=asks, quiet=json) as view:
        dataset = write(data, output, test=test, config=config, overrides=overrides, on_event=view)
    if json:
        show.print_json(dataset.record.model_dump())
        return
    show.console.print(show.dataset_summary(dataset.record))
    show.console.print(
        f"data set   {output}\nagain      {_command(data, output, test, config, overrides)}", soft_wrap=True
    )


def _has_terminal() -> bool:
    return sys.stdin.isatty()


def _command(data: str, output: str, test: str | None, config: str | None, overrides: Mapping[str, Any]) -> str:
    """The command that does the same without asking."""
    from rayclf.cli.show import as_json

    words = ["rayclf", "data", "prepare", data, "-o", output]
    for flag, value in (("--test", test), ("--config", config)):
        words += [flag, value] if value is not None else []
    for path, flag in _FLAGS.items():
        if path in overrides:
            value = overrides[path]
            words += [flag, as_json(value) if isinstance(value, dict) else str(value)]
    if "data.shuffle" in overrides:
        words.append("--shuffle" if overrides["data.shuffle"] else "--no-shuffle")
    for path, value in overrides.items():
        if path not in (*_FLAGS, "data.shuffle", "output.overwrite"):
            words += ["--set", f"{path}={as_json(value)}"]
    return shlex.join([*words, "--overwrite"])
