"""``rayclf keys``: make, list, rotate and revoke the API keys of the endpoint."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from rayclf.cli.options import Json
from rayclf.errors import ConfigError

if TYPE_CHECKING:
    from rayclf.serving.keys import Key

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, list, rotate and revoke API keys.")

Store = Annotated[
    str | None,
    typer.Option(
        "--store", help="File of the keys, local or remote; keys.json in $RAYCLF_HOME or ~/.rayclf.", show_default=False
    ),
]
Which = Annotated[str, typer.Argument(metavar="KEY", help="Id of a key, or a name that one has.", show_default=False)]
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what it is for.", show_default=False)],
    models: Annotated[str, typer.Option(help="Models it is for, parted by commas; * for all.")] = "*",
    expires: Annotated[
        str | None, typer.Option(help="When it ends: 12h, 90d or 2027-01-31; never when not given.")
    ] = None,
    rate: Annotated[int | None, typer.Option(help="Requests a minute; no limit when not given.")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Make a key and show it, this once.

    Example: rayclf keys create website --models tickets --expires 90d --rate 600
    """
    from rayclf.serving.keys import KeyStore

    until = parse_expiry(expires, datetime.now(UTC)) if expires is not None else None
    chosen = [model.strip() for model in models.split(",")]
    _show_new(*KeyStore(store).create(name, chosen, until, rate), json)


@app.command("list")
def list_(store: Store = None, json: Json = False) -> None:
    """List the keys: id, name, state, models, requests a minute, expiry. The keys themselves are nowhere kept.

    Example: rayclf keys list
    """
    from rich.markup import escape
    from rich.table import Table

    from rayclf.cli import show
    from rayclf.serving.keys import KeyStore

    now = datetime.now(UTC)
    keys = KeyStore(store).list()
    if json:
        show.print_json([key.public() | {"state": key.state(now)} for key in keys])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "name", "state", "models", "a minute", "expires"):
        table.add_column(column, overflow="fold")
    for key in keys:
        cells = (key.id, key.name, key.state(now), ", ".join(key.models), str(key.rate or "–"), _day(key.expires))
        table.add_row(*map(escape, cells))
    show.console.print(table)


@app.command()
def rotate(
    key: Which,
    grace: Annotated[str, typer.Option(help="How long the old one is still taken: 0m, 24h, 7d.")] = "24h",
    store: Store = None,
    json: Json = False,
) -> None:
    """Make a key in place of another, with the same rights, and show it, this once.

    Example: rayclf keys rotate website --grace 7d
    """
    from rayclf.serving.keys import KeyStore

    _show_new(*KeyStore(store).rotate(key, parse_duration("--grace", grace)), json)


@app.command()
def revoke(key: Which, store: Store = None, json: Json = False) -> None:
    """Refuse a key from now on; running endpoints know within seconds.

    Example: rayclf keys revoke website
    """
    from rayclf.cli import show
    from rayclf.serving.keys import KeyStore

    revoked = KeyStore(store).revoke(key)
    if json:
        show.print_json(revoked.public())
        return
    show.console.print(f"revoked {revoked.id} ({revoked.name})", markup=False, soft_wrap=True)


def _show_new(key: Key, token: str, json: bool) -> None:
    from rayclf.cli import show

    if json:
        show.print_json({"key": token, **key.public()})
        return
    lines = (
        f"key      {token}",
        f"id       {key.id}",
        f"models   {', '.join(key.models)}",
        f"expires  {_day(key.expires)}",
        "The key is shown this once and kept nowhere. Requests send it as Authorization: Bearer KEY.",
    )
    show.console.print("\n".join(lines), markup=False, soft_wrap=True)


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"


def parse_duration(flag: str, text: str) -> timedelta:
    """``90d``, ``12h``, ``30m`` or ``2w``; raises ConfigError that names ``flag``."""
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip(), re.ASCII)
    if match is None:
        raise ConfigError(f"{flag} {text}: not a duration; write a number with m, h, d or w, such as 24h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def parse_expiry(text: str, now: datetime) -> datetime:
    """A duration from ``now`` on, or a date or time in ISO 8601, UTC unless it says otherwise; raises ConfigError."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return (now + parse_duration("--expires", text)).replace(microsecond=0)
        except (ConfigError, OverflowError):
            raise ConfigError(
                f"--expires {text}: neither a duration such as 90d nor a date such as 2027-01-31"
            ) from None
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ConfigError(f"--expires {text}: beyond the calendar; leave it out for a key that never ends") from None
