"""``rayclf export``"""

from __future__ import annotations

from typing import Annotated

import typer

from rayclf.cli.options import Artifact


def export(
    artifact: Artifact,
    folder: Annotated[str, typer.Argument(help="New folder in Transformers' layout.", show_default=False)],
) -> None:
    """Write a plain Transformers folder, adapters merged, that other tools load.

    Example: rayclf export runs/tickets exported/
    """
    from rayclf.cli import show
    from rayclf.model.info import find_artifact, read_info

    about = read_info(find_artifact(artifact))
    import rayclf

    target = rayclf.export(artifact, folder)
    show.console.print(f"exported to {target}")
    if about.template != "{text}":
        show.console.print(
            f"apply the template {about.template!r} to each text before you give it to the model", markup=False
        )
