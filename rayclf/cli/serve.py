"""``rayclf serve``"""

from __future__ import annotations

from typing import Annotated

import typer

from rayclf.cli.options import Precision, Runtime, check_choice

_EXAMPLES = {
    "text": '"some text"',
    "pair": '["one text", "another"]',
    "messages": '[{"role": "user", "content": "some text"}]',
}


def serve(
    artifact: Annotated[str, typer.Argument(help="Artifact, run, or a folder of them: a model each.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback an API key is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    model: Annotated[str | None, typer.Option(help="Name in the answers; the run's folder when not given.")] = None,
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    max_models: Annotated[
        int | None, typer.Option(min=1, help="Of a folder: models in memory at once, the least recently used go.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="When it is open: 'Mon-Fri 08:00-20:00 Europe/Berlin'; always when not given.")
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="Ask for an API key on loopback too; see rayclf keys.")] = False,
) -> None:
    """Serve a classifier, or a folder of them, over HTTP until Ctrl-C; a page to try it is at /.

    Example: rayclf serve runs/tickets --port 8000
    """
    check_choice("precision", precision)
    check_choice("runtime", runtime)
    import time

    import rayclf
    from rayclf.cli import show
    from rayclf.model.info import find_artifact, read_info
    from rayclf.serving.run import find_models

    models = find_models(artifact, model)
    example = _EXAMPLES[read_info(find_artifact(models[next(iter(models))])).reads.form]
    with rayclf.serve(
        artifact,
        host=host,
        port=port,
        model=model,
        precision=precision,  # type: ignore[arg-type]
        runtime=runtime,  # type: ignore[arg-type]
        max_models=max_models,
        schedule=schedule,
        keys=keys,
    ) as server:
        show.console.print(
            f"serving [bold]{server.model}[/] at {server.url}   (try it there; API: {server.url}/docs; Ctrl-C stops)",
            soft_wrap=True,
        )
        show.console.print(
            f"curl {server.url}/v1/classify -H 'content-type: application/json' -d '{{\"inputs\": [{example}]}}'",
            markup=False,
            soft_wrap=True,
        )
        while True:
            time.sleep(3600)
