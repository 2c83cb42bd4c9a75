"""``rayclf``: the commands and what an error looks like.

Exit codes: 0 done; 2 the user can mend it, and one line on stderr says how; 130 Ctrl-C; 1 anything else.
"""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from typing import Annotated

import typer

from rayclf.cli import (
    data,
    demo,
    deploy,
    evaluate,
    export,
    info,
    keys,
    plan,
    predict,
    runs,
    score,
    serve,
    submit,
    train,
    tune,
)
from rayclf.errors import RayclfError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: loading rich would take longer than all the rest
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Labelled text in, a classifier on a large language model out: train, evaluate, serve, score at any scale.",
    epilog="Begin with: rayclf demo. Exit codes: 0 done, 2 yours to mend (a line says how), 130 Ctrl-C, 1 all else.",
)


@app.callback()
def root(
    address: Annotated[
        str | None,
        typer.Option(
            submit.FLAG,
            metavar="URL",
            help="Run the command on the Ray cluster at http://… or ray://…, as a job whose log is followed.",
        ),
    ] = None,
) -> None:
    """What is said before or after a command; :func:`main` takes it, since it may stand anywhere."""


app.command("demo")(demo.demo)
app.add_typer(data.app, name="data")
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("info")(info.info)
app.command("score")(score.score)
app.command("serve")(serve.serve)
app.command("deploy")(deploy.deploy)
app.add_typer(deploy.app, name="deployments")
app.add_typer(keys.app, name="keys")
app.add_typer(runs.app, name="runs")
app.command("export")(export.export)


def main() -> None:
    """Run the command line; never returns. Ctrl-C exits with 130, and so do a service manager's stop and a terminal
    that closes (but under ``nohup``)."""
    gc.set_threshold(100_000)  # importing PyTorch and Transformers makes a million objects, and no garbage
    atexit.register(gc.freeze)  # else Python ends with a search for garbage in all of them: a second
    for stop in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(stop) is not signal.SIG_IGN:
            signal.signal(stop, signal.default_int_handler)
    try:
        address, words = submit.take_address(sys.argv[1:])
        if address is not None:
            sys.exit(submit.submit(address, words))
        app()
    except RayclfError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)  # no permission, no space, …
        sys.exit(2)


if __name__ == "__main__":
    main()
