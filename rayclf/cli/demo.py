"""``rayclf demo``"""

from __future__ import annotations

from typing import Annotated

import typer

from rayclf.cli.options import Backbone


def demo(
    output: Annotated[str | None, typer.Option("-o", "--output", help="Folder; runs/demo-… when not given.")] = None,
    backbone: Backbone = None,
    data: Annotated[
        str, typer.Option(help="questions (one of four subjects) or support (several labels).")
    ] = "questions",
) -> None:
    """Show the main job from end to end, in under three minutes on a laptop.

    Example: rayclf demo
    """
    from rayclf.cli import show
    from rayclf.cli.progress_views import TrainView
    from rayclf.cli.score import score
    from rayclf.demo import lessons

    lesson = lessons.lesson(data)
    folder = lessons.timestamped(output, data)
    import rayclf

    def heading(text: str) -> None:
        show.console.print()
        show.console.rule(f"[bold]{text}", align="left")

    heading("1  The data")
    with TrainView() as view:
        run = rayclf.train(
            lessons.data_file(lesson.file), folder, backbone=backbone, overrides=lesson.settings, on_event=view
        )
    heading("2  How good it is, on rows it has not seen")
    show.console.print(show.metrics_table(run.metrics["test"], "test"))
    heading("3  A Parquet corpus, scored offline")
    corpus = lessons.write_corpus(run.folder)
    score(str(run.artifact), str(corpus), str(run.folder / "scored"))
    heading("4  An endpoint answers")
    with rayclf.serve(run.artifact, port=lessons.free_port(), model=run.folder.name) as server:
        show.console.print(f"POST {server.url}/v1/classify  {lesson.question!r}", markup=False)
        show.print_json(lessons.ask(server.url, lesson.question))
    heading("5  What is where")
    for what, place in {
        "run": run.folder,
        "artifact": run.artifact,
        "report": run.folder / "report.html",
        "corpus, scored": run.folder / "scored",
    }.items():
        show.console.print(f"{what:15} {place}", soft_wrap=True)
    show.console.print(f'next            rayclf predict {run.folder} "your own text"', markup=False, soft_wrap=True)
