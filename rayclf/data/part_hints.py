"""Signs that what will be measured on held-out rows says less than it seems, or that labels contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rayclf.data.duplicates import find_duplicates
from rayclf.data.hints import joined_labels
from rayclf.data.plan import Plan
from rayclf.data.survey import Survey
from rayclf.data.weights import LabelCounts
from rayclf.labels import LabelSpace, ProblemType


def find_part_hints(plan: Plan, test: Survey | None = None) -> tuple[str, ...]:
    """One sentence each, of rows to be trained on and, with ``test``, of a test input of its own; no texts are told."""
    return tuple(_hints(plan, test))


def _hints(plan: Plan, test: Survey | None) -> Iterator[str]:
    found, space = plan.found, plan.found.space
    if space.problem_type is ProblemType.MULTICLASS and (joined := joined_labels(space.names)) is not None:
        yield joined
    twice = find_duplicates(found)
    if twice.conflicting_texts:
        where = " and ".join(f"{place.file} row {place.row}" for place in twice.examples[0][:2])
        yield (
            f"{twice.conflicting_rows} rows have a text that another row has with other labels, such as {where}; "
            "correct them or leave them out"
        )
    trained = found.identity[plan.rows("train") > 0]
    held_out = {name: (found.identity[plan.rows(name) > 0], plan.counts(name)) for name in plan.names[1:]}
    if test is not None:
        held_out["test"] = test.identity[test.kept], LabelCounts(len(test.kept), *test.label_counts(test.usable))
    for name, (identity, counts) in held_out.items():
        if shared := int(np.count_nonzero(np.isin(identity, trained))):
            yield (
                f"{shared} of {counts.rows} {name} rows have a text that is trained on too: figures on these rows will "
                "be too good; leave them out"
            )
        if (only := _only(counts, space)) is not None:
            yield f"all {counts.rows} {name} rows {only}: figures on them say nothing of other rows; hold out more"


def _only(counts: LabelCounts, space: LabelSpace) -> str | None:
    """What is true of all rows of a part where it should not be."""
    if space.problem_type is ProblemType.BINARY:
        sides = {"hold": counts.positive[0], "do not hold": counts.negative[0]}
        return next((f"{what} '{space.names[0]}'" for what, rows in sides.items() if 0 < rows == counts.rows), None)
    held = np.flatnonzero(counts.positive)
    if len(held) == 1 < len(space) and counts.positive[held[0]] == counts.rows:
        return f"hold '{space.names[held[0]]}'" + (" alone" if space.problem_type is ProblemType.MULTILABEL else "")
    return None
