"""``rayclf serve``"""

from __future__ import annotations

from typing import Annotated

import typer

from rayclf.cli.options import Artifact, Precision, check_choice

_EXAMPLES = {
    "text": '"some text"',
    "pair": '["one text", "another"]',
    "messages": '[{"role": "user", "content": "some text"}]',
}


def serve(
    artifact: Artifact,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback RAYCLF_API_KEY must be set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    model: Annotated[str | None, typer.Option(help="Name in the answers; the run's folder when not given.")] = None,
    precision: Precision = "auto",
) -> None:
    """Serve a classifier over HTTP until Ctrl-C.

    Example: rayclf serve runs/tickets --port 8000
    """
    check_choice("precision", precision)
    import time

    import rayclf
    from rayclf.cli import show
    from rayclf.model.info import find_artifact, read_info

    example = _EXAMPLES[read_info(find_artifact(artifact)).reads.form]
    with rayclf.serve(artifact, host=host, port=port, model=model, precision=precision) as server:  # type: ignore[arg-type]
        show.console.print(
            f"serving [bold]{server.model}[/] at {server.url}   (API page {server.url}/docs, Ctrl-C stops)",
            soft_wrap=True,
        )
        show.console.print(
            f"curl {server.url}/v1/classify -H 'content-type: application/json' -d '{{\"inputs\": [{example}]}}'",
            markup=False,
            soft_wrap=True,
        )
        while True:
            time.sleep(3600)
