"""``rayclf predict``"""

from __future__ import annotations

from typing import Annotated

import typer

from rayclf.cli.options import Artifact, Device, Json, Precision, check_choice


def predict(
    artifact: Artifact,
    texts: Annotated[list[str], typer.Argument(help="Texts to classify; chat messages as JSON.", show_default=False)],
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to show for each text.")] = 5,
    pair: Annotated[bool, typer.Option("--pair", help="The texts come two by two, each two a pair.")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Json = False,
) -> None:
    """Classify texts given on the command line.

    Example: rayclf predict runs/tickets "I was charged twice"
    """
    check_choice("precision", precision)
    if pair and len(texts) % 2:
        raise typer.BadParameter(f"--pair takes an even number of texts, not {len(texts)}", param_hint="TEXTS")
    from dataclasses import asdict

    from rayclf.cli import show
    from rayclf.model.info import find_artifact, read_info

    read_info(find_artifact(artifact))  # a wrong folder is told before PyTorch is loaded
    import rayclf

    classifier = rayclf.Classifier.load(artifact, device=device, precision=precision)  # type: ignore[arg-type]  # checked
    predictions = classifier.predict(list(zip(texts[::2], texts[1::2], strict=True)) if pair else texts)
    if json:
        show.print_json([asdict(prediction) for prediction in predictions])
        return
    shown = [" | ".join(two) for two in zip(texts[::2], texts[1::2], strict=True)] if pair else texts
    for text, prediction in zip(shown, predictions, strict=True):
        show.console.print(text, markup=False, style="italic")
        show.console.print(
            f"  [bold]{prediction.label}[/] {prediction.score:.4f}   labels: {', '.join(prediction.labels) or 'none'}"
        )
        for name, p in sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])[:top_k]:
            show.console.print(f"  {'█' * round(30 * p):30} {p:.4f} {name}", markup=False)
