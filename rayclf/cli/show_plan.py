"""What ``rayclf plan`` prints: facts, then the memory of a device as bars."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from rayclf.cli.show import console
from rayclf.training.cost.devices import GIB
from rayclf.training.cost.estimate import Estimate, count

_BAR = 32
_MEANING = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "autocast": "bf16 copies of weights",
    "activations": "activations",
    "head": "logits",
    "buffers": "temporary buffers",
    "reserve": "libraries, reserve",
}


def show_estimate(found: Estimate) -> None:
    """Print an estimate."""
    shape, device = found.shape, found.device
    trained = f"{count(shape.backbone + shape.head)} in all, {count(found.trained)} trained"
    told = f"{found.gpus} × {device.name}" if not device.is_cpu else f"cpu, {found.gpus} worker(s)"
    facts = {
        "backbone": f"{found.backbone} ({shape.model_type})",
        "parameters": f"{trained}, {found.labels} labels",
        "training": f"{found.method}, {found.strategy}, {found.precision}, {found.micro_batch_tokens} tokens at once",
        "device": told,
    }
    if found.tokens is not None and found.flops is not None and found.seconds is not None:
        facts["tokens"] = (
            f"{count(found.tokens)} = {found.rows} rows × {found.tokens_per_row:.1f} tokens × {found.epochs} epoch(s)"
        )
        if found.head_rows:
            facts["tokens"] += f"; before, {found.head_rows} rows once for the head"
        hours = f", {found.gpu_hours:.2g} GPU-hours" if found.gpu_hours is not None else ""
        facts["time"] = f"about {duration(found.seconds)}{hours} ({found.flops:.2e} FLOPs at {device.mfu:.0%} of peak)"
    else:
        facts["time"] = "unknown; give --data, or --rows and --tokens-per-row"
    for name, value in facts.items():
        console.print(f"[bold]{name:10}[/] {escape(value)}")
    console.print(_memory_table(found))
    if found.memory.host:
        console.print(f"and {found.memory.host / GIB:.1f} GiB of CPU memory for what is offloaded, over all nodes")


def _memory_table(found: Estimate) -> Table:
    capacity = found.device.memory
    each = "worker" if found.device.is_cpu else "GPU"
    table = Table(title=f"memory of each {each}", title_justify="left")
    for name in ("", "GiB", ""):
        table.add_column(name, justify="right" if name else "left")
    for name, value in found.memory.components.items():
        table.add_row(_MEANING[name], f"{value / GIB:.2f}", bar(value / capacity))
    table.add_section()
    total = found.memory.total
    verdict = "fits" if found.fits else "does not fit"
    table.add_row("all", f"{total / GIB:.2f}", bar(total / capacity))
    table.add_row(f"of {capacity / GIB:.1f}", f"{total / capacity:.0%}", verdict)
    return table


def bar(share: float) -> str:
    """A bar of 32 characters for a share of 1; what is beyond is cut, and marked by an arrow."""
    return "█" * _BAR + "▶" if share > 1 else "█" * round(share * _BAR)


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, in two digits."""
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.2g} {name}" if seconds < 100 * size else f"{seconds / size:.0f} {name}"
    return f"{max(1, round(seconds))} seconds"
