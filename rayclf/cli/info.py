"""``rayclf info``"""

from __future__ import annotations

from rayclf.cli.options import Artifact, Json


def info(artifact: Artifact, json: Json = False) -> None:
    """Tell what an artifact is: labels, backbone, settings, metrics.

    Example: rayclf info runs/tickets
    """
    from rayclf.cli import show
    from rayclf.model.info import find_artifact, read_info

    folder = find_artifact(artifact)
    about = read_info(folder)
    if json:
        show.print_json(about.model_dump() | {"folder": str(folder)})
        return
    space = about.space
    names = ", ".join(space.names[:20]) + (f", … {len(space) - 20} more" if len(space) > 20 else "")
    facts = {
        "artifact": folder,
        "labels": f"{len(space)} ({space.problem_type}): {names}",
        "backbone": f"{about.backbone.id} ({about.backbone.model_type}), {about.pooling} pooling",
        "tuning": about.tuning,
        "text": f"{about.reads}, at most {about.max_length} tokens, template {about.template!r}",
        "created": about.created,
    }
    for name, value in facts.items():
        show.console.print(f"[bold]{name:9}[/] ", end="")
        show.console.print(str(value), markup=False)
    for part, metrics in about.metrics.items():
        show.console.print(show.metrics_table(metrics, part))
