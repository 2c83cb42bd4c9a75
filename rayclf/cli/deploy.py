"""``rayclf deploy`` and ``rayclf deployments``: endpoints on a Ray cluster that outlive the command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayclf.cli.options import Json, check_choice
from rayclf.errors import ConfigError

if TYPE_CHECKING:
    from rayclf.serving.deployments import Deployment

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="See, promote, roll back, delete and restore deployments."
)

Name = Annotated[str, typer.Argument(help="Name of the deployment.", show_default=False)]
Traffic = Annotated[float, typer.Option(help="Percent of the requests that the newest version gets.")]


def deploy(
    name: Name,
    artifact: Annotated[
        str | None,
        typer.Argument(help="Artifact, run, or a folder of them, on every node; the same as before when not given."),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(metavar="MIN,MAX", help="Fewest and most replicas: 0,4 sleeps if idle; 1,1 at first."),
    ] = None,
    inactive_timeout: Annotated[
        float | None, typer.Option(help="Seconds without a request until the last replica sleeps; 300 at first.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="When it is open: 'Mon-Fri 08:00-20:00 Europe/Berlin'; always at first.")
    ] = None,
    traffic: Traffic = 100,
    gpus_per_replica: Annotated[
        float | None, typer.Option(help="GPUs of a replica, also 0.5; 1 where the cluster has any.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16, or int8 on a CPU.")] = None,
    runtime: Annotated[str | None, typer.Option(help="auto, torch, or onnx on a CPU.")] = None,
    max_models: Annotated[int | None, typer.Option(min=1, help="Of a folder: models in a replica's memory.")] = None,
    keys: Annotated[
        bool | None,
        typer.Option("--keys/--no-keys", help="Ask for an API key, as beyond loopback.", show_default=False),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name in the answers; that of the deployment at first.")] = None,
    route: Annotated[str | None, typer.Option(help="Where it answers; /NAME at first.")] = None,
    host: Annotated[str | None, typer.Option(help="Where Serve listens; 127.0.0.1 when it starts.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The same; 8000 when it starts.")] = None,
    json: Json = False,
) -> None:
    """Deploy a classifier on the Ray cluster of RAY_ADDRESS or of this machine, or a new version of it.

    What is not given stays as it was. A new version takes over when it has loaded; no request is lost.

    Example: rayclf deploy tickets runs/tickets --replicas 0,4 --inactive-timeout 600
    """
    for flag, value in (("precision", precision), ("runtime", runtime)):
        if value is not None:
            check_choice(flag, value)
    from rayclf.serving import deployments

    made = deployments.deploy(
        name,
        artifact,
        traffic=traffic,
        route=route,
        host=host,
        port=port,
        replicas=parse_replicas(replicas) if replicas is not None else None,
        inactive_timeout_s=inactive_timeout,
        schedule=schedule,
        gpus_per_replica=gpus_per_replica,
        precision=precision,
        runtime=runtime,
        max_models=max_models,
        keys=keys,
        model=model,
    )
    _show([made], json)


@app.command("list")
def list_(json: Json = False) -> None:
    """List all deployments: name, address, state, versions and their share of the requests, replicas.

    Example: rayclf deployments list
    """
    from rayclf.serving import deployments

    _show(deployments.list_deployments(), json, several=True)


@app.command()
def status(name: Name, json: Json = False) -> None:
    """Show one deployment.

    Example: rayclf deployments status tickets --json
    """
    from rayclf.serving import deployments

    _show([deployments.status(name)], json)


@app.command()
def promote(name: Name, traffic: Traffic = 100, json: Json = False) -> None:
    """Give the version on trial more of the requests: all of them, unless --traffic says otherwise.

    Example: rayclf deployments promote tickets
    """
    from rayclf.serving import deployments

    _show([deployments.promote(name, traffic)], json)


@app.command()
def rollback(name: Name, json: Json = False) -> None:
    """End the trial of a version; where none is on trial, go back to the version before.

    Example: rayclf deployments rollback tickets
    """
    from rayclf.serving import deployments

    _show([deployments.rollback(name)], json)


@app.command()
def delete(name: Name, json: Json = False) -> None:
    """Take a deployment down, once its requests are answered, and forget its versions; artifacts stay.

    Example: rayclf deployments delete tickets
    """
    from rayclf.cli import show
    from rayclf.serving import deployments

    deployments.delete(name)
    if json:
        show.print_json({"deleted": name})
    else:
        show.console.print(f"deleted {name}", markup=False, soft_wrap=True)


@app.command()
def restore(
    name: Annotated[str | None, typer.Argument(help="One deployment; all when not given.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Bring back, on a new cluster, what was deployed; what is there is left alone.

    Example: rayclf deployments restore
    """
    from rayclf.serving import deployments

    _show(deployments.restore(name), json, several=True)


def parse_replicas(text: str) -> tuple[int, int]:
    """``0,4``, or one number for a fixed count; raises ConfigError."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ConfigError(f"--replicas {text}: not the fewest and the most; write 0,4, or 2 for always two")
    return numbers[0], numbers[-1]


def _show(found: list[Deployment], json: bool, several: bool = False) -> None:
    from rich.markup import escape
    from rich.table import Table

    from rayclf.cli import show

    if json:
        told: list[dict[str, Any]] = [deployment.public() for deployment in found]
        return show.print_json(told if several else told[0])
    table = Table(box=None, pad_edge=False)
    for column in ("name", "url", "state", "version", "requests", "replicas", "artifact"):
        table.add_column(column, overflow="fold")
    for deployment in found:
        for place, version in enumerate(deployment.versions):
            first = ("", "", "") if place else (deployment.name, deployment.url, deployment.status)
            replicas = ", ".join(f"{n} {state.lower()}" for state, n in version.replicas.items())
            cells = (*first, str(version.number), f"{version.share:g} %", replicas or "none", version.artifact)
            table.add_row(*map(escape, cells))
    show.console.print(table)
