"""What people see: tables, progress bars and remarks, with rich."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from math import erf
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..instruments.text import printable
from .streams import under

if TYPE_CHECKING:
    from ..backends import OpticsProfile
    from ..backends.bench import Bench
    from ..backends.bench.accuracy import Accuracy
    from ..backends.calibration import Alignment
    from ..backends.optics.calibration_file import Calibration, Step
    from ..instruments import Finding
    from ..instruments.discovery import FoundDevice
    from ..scheduler.runs import Plan, Report

_EXTRAS = {
    "fast": ("numba", "onnxruntime"),
    "display": ("sdl2",),
    "genicam": ("harvesters", "genicam"),
    "micromanager": ("pymmcore_plus",),
    "ni": ("nidaqmx",),
    "cluster": ("distributed", "cryptography"),
    "slmsuite": ("slmsuite",),
    "report": ("matplotlib",),
    "export": ("h5py", "zarr", "xarray"),
    "models": ("gguf", "tokenizers"),
    "hub": ("huggingface_hub",),
    "train": ("sklearn", "torch"),
}


class PrintableConsole(Console):
    """A console that prints what comes from outside as it is, with control characters made visible.

    Parameters
    ----------
    to : the stream to print to
    width : None for the terminal's
    """

    def __init__(self, to: TextIO | None, width: int | None = None) -> None:
        super().__init__(file=under(to), highlight=False, emoji=False, width=width)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a text; written out before it is laid out, so that columns fit."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render anything; whatever text it holds is made printable."""
        for text, style, control in super().render(renderable, options):
            if control:
                yield Segment(text, style, control)
                continue
            if style is not None and style.link:  # of a line that a library printed
                style = style.update_link(None)
            yield Segment(printable(text), style)


def console(*, for_people: bool) -> Console:
    """Return the console: stdout for people, stderr when stdout carries JSON."""
    stream = sys.stdout if for_people else sys.stderr
    is_terminal = stream is not None and stream.isatty()
    return PrintableConsole(stream, None if is_terminal else 110)  # a pipe has no width of its own


@contextmanager
def progress(where: Console, in_percent: bool = False) -> Iterator[Any]:
    """Show a progress bar while a run goes on; gives the function that a run tells."""
    share = TaskProgressColumn() if in_percent else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), share)
    with Progress(
        *columns, TimeRemainingColumn(), console=PrintableConsole(sys.stderr), transient=True
    ) as bar:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            for name, task in tasks.items():
                if name != what:
                    bar.update(task, visible=False)
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total, visible=True)

        yield tell


def report(where: Console, result: "Report") -> None:
    """Print a run's report."""
    mark = " [bold yellow]MOCK[/]" if result.is_mock else ""
    mark += "" if result.is_calibrated else " [bold red]NOT CALIBRATED[/]"
    where.print(f"\n[bold]{escape(result.model)}[/] on the {result.backend} backend{mark}")
    if result.profile is not None:
        where.print(
            f"bench profile [bold]{escape(result.profile)}[/]"
            + (f": {escape(result.profile_title)}" if result.profile_title else "")
        )
        where.print(f"placement {escape(result.placement)}")
    quality(where, result)
    here, bench = result.throughput["here"], result.throughput["bench"]
    where.print(f"throughput: {_figure(here)} {result.throughput['unit']} (measured here)", end="")
    where.print("" if bench is None else f", {_figure(bench)} on the bench (predicted)")
    where.print(_step_table(result))
    stats = result.stats
    if stats.shots:
        where.print(
            f"events of this run ({result.backend}): {stats.shots:,} shots, "
            f"{stats.weight_frames:,} weight frames, {stats.conversions:,} conversions, "
            f"{stats.photons:.3g} photoelectrons, {stats.saturated:,} saturated"
        )
    if result.energy is not None:
        from .energy import of_run

        of_run(where, result.energy)
    for remark in result.remarks:
        where.print(f"[yellow]note:[/] {escape(remark)}")


def quality(where: Console, result: "Report") -> None:
    """Print how good a result is: its text, its figure, or similarities."""
    found = result.quality
    if found["metric"] == "text":
        for side in ("digital", "optical"):
            if found[side] is not None:
                where.print(f"\n[bold]{side}:[/] ", end="")
                where.print(found[side], markup=False, soft_wrap=True)
        where.print()
        return
    line = ", ".join(
        f"{side} [bold]{_quality_figure(found['metric'], found[side])}[/]"
        for side in ("digital", "optical")
        if found[side] is not None
    )
    if result.task != "embed" or found["optical"] is not None:
        where.print(f"{found['metric']}: {line}")
    if result.task == "embed":
        similarity = result.results["cosine_similarity"]
        table = Table("", *(f"{column + 1}" for column in range(len(similarity))))
        for row, values in enumerate(similarity[:20]):
            table.add_row(f"{row + 1}", *(f"{value:.3f}" for value in values[:20]))
        where.print("cosine similarity of the sentences")
        where.print(table)


def _quality_figure(metric: str, value: float) -> str:
    return f"{value:.2%}" if metric == "accuracy" or "agreement" in metric else f"{value:.4g}"


def _step_table(result: "Report") -> Table:
    table = Table(
        title="Where operations and time go", title_justify="left", box=box.SIMPLE, pad_edge=False
    )
    for name, side in (
        ("step", "left"),
        ("where", "left"),
        ("MACs", "right"),
        ("operations", "right"),
        ("here", "right"),
        ("", "right"),
    ):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    has_bench = any(step.seconds_bench is not None for step in result.steps)
    if has_bench:
        table.add_column("bench", justify="right", no_wrap=True)
        table.add_column("", justify="right", no_wrap=True)
    order = {"optical": 0, "host": 1, "convert": 2}
    steps = sorted(result.steps, key=lambda step: order[step.where])
    operations = sum(step.operations for step in steps if step.where != "convert") or 1
    here = sum(step.seconds_here for step in steps) or 1
    bench = sum(step.seconds_bench or 0 for step in steps) or 1
    before = ""
    for step in steps:
        if before and step.where != before:
            table.add_section()
        before = step.where
        share = f"{step.operations / operations:.1%}"
        if step.where == "convert":
            share = f"({_count(step.operations)})"
        row = [step.kind, step.where, _count(step.macs) if step.macs else "", share]
        row += [_duration(step.seconds_here), f"{step.seconds_here / here:.1%}"]
        if has_bench:
            row += [_duration(step.seconds_bench or 0), f"{(step.seconds_bench or 0) / bench:.1%}"]
        table.add_row(*row)
    table.add_section()
    total = ["all", "", _count(sum(s.macs for s in steps)), "100%", _duration(here), "100%"]
    table.add_row(*total, *([_duration(bench), "100%"] if has_bench else []))
    source = "here: measured on this machine, for what ran here. "
    if has_bench:
        source += (
            f"bench: predicted, light from the profile {result.profile}, host steps as measured "
            "here, nothing overlapped. "
        )
    table.caption = f"{source}In brackets: samples converted."
    table.caption_justify = "left"
    return table


def plan(where: Console, planned: "Plan") -> None:
    """Print a plan, layer by layer; equal layers once."""
    where.print(
        f"\n[bold]{escape(planned.model.name)}[/], {planned.backend.name}, bench profile "
        f"[bold]{escape(planned.profile.name)}[/], placement {escape(planned.placement)}; "
        "nothing was run"
    )
    sizes = planned.passes[0][0]
    where.print(
        f"first pass: batch {sizes['batch']}, {sizes['new']} tokens; "
        f"{len(planned.passes)} pass(es) in all"
    )
    table = Table(caption_justify="left", box=box.SIMPLE, pad_edge=False)
    for name, side in (
        ("step", "left"),
        ("kind", "left"),
        ("where", "left"),
        ("shapes", "left"),
        ("MACs", "right"),
        ("tiles", "right"),
        ("frames", "right"),
        ("shots", "right"),
        ("predicted", "right"),
    ):
        table.add_column(name, justify=side, no_wrap=name != "shapes")  # type: ignore[arg-type]
    hidden = _like_the_one_before(planned)
    for step in planned.steps:
        if _layer(step.name) in hidden:
            continue
        optical = step.where == "optical"
        where_text = f"[cyan]{step.where}[/]" if optical else step.where
        counts = (step.tiles, step.weight_frames, step.shots) if optical else ("", "", "")
        table.add_row(
            step.name.removeprefix("layer."),
            step.kind,
            where_text,
            step.shapes,
            _count(step.macs) if step.macs else "",
            *(f"{c:,}" if c != "" else "" for c in counts),
            _duration(step.seconds),
        )
    if hidden:
        table.caption = (
            "steps begin with their layer; layers that are not shown are split as the one before "
            "them. frames: weight frames"
        )
    where.print(table)
    costs = _costs_table(planned)
    if costs is not None:
        where.print(costs)
    total = {
        key: sum(getattr(step, key) for step in planned.steps)
        for key in ("macs", "tiles", "weight_frames", "shots", "seconds")
    }
    on_light = sum(step.macs for step in planned.steps if step.where == "optical")
    light = sum(step.seconds for step in planned.steps if step.where == "optical")
    where.print(
        f"all layers: {_count(total['macs'])} MACs ({on_light / max(total['macs'], 1):.1%} on "
        f"light), {total['tiles']:,} tiles, {total['weight_frames']:,} weight frames, "
        f"{total['shots']:,} shots"
    )
    found = planned.prediction
    host = "as measured here" if planned.host is not None else "as the profile says"
    where.print(
        f"predicted: [bold]{_duration(found.seconds)}[/], light and host overlapped in "
        f"{found.micro_batches} micro-batch(es); {_duration(total['seconds'])} one step after "
        f"another, of which light and converters {_duration(light)}; host steps {host}"
    )
    shares = sorted(found.utilisation.items(), key=lambda item: -item[1])
    where.print("busy: " + ", ".join(f"{name} {share:.1%}" for name, share in shares if share))
    unit = "image" if planned.task == "classify" else "token"
    where.print(
        f"bottleneck: [bold]{found.bottleneck}[/]; "
        f"{_figure(planned.units / found.seconds if found.seconds else 0.0)} {unit}s per second; "
        f"memory on the host: {_count(planned.memory_bytes)}B"
    )


def _costs_table(planned: "Plan") -> Table | None:
    """Set side by side what decided: seconds or joules, on light and on the host."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for step in planned.steps:
        found = step.decided_by or {}
        if "why" not in found:
            continue
        costs = (
            (_duration(found["light_s"]), _duration(found["host_s"]))
            if "light_s" in found
            else (f"{found['light_j']:.3g} J", f"{found['host_j']:.3g} J")
        )
        names = rows.setdefault((step.kind, *costs, step.where, found["why"]), [])
        name = step.name if _layer(step.name) is None else step.name.split(".", 2)[2]
        if name not in names:
            names.append(name)
    table = Table(title="Why", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for heading in ("product", "on light", "on the host", "goes to", ""):
        table.add_column(heading, justify="right" if heading.startswith("on ") else "left")
    for (kind, light, host, where, why), names in rows.items():
        target = "[cyan]light[/]" if where == "optical" else "host"
        table.add_row(f"{kind}: {', '.join(names)}", light, host, target, why)
    return table if rows else None


def _like_the_one_before(planned: "Plan") -> set[str | None]:
    """Return the layers that go where the layer before them goes."""
    looks: dict[str, list[tuple[str, str]]] = {}
    for step in planned.steps:
        layer = _layer(step.name)
        if layer is not None:
            looks.setdefault(layer, []).append((step.name.split(".", 2)[2], step.where))
    return {layer for before, layer in pairwise(looks) if looks[layer] == looks[before]}


def _layer(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "layer" else None


def checks(where: Console, path: str, findings: "list[Finding]") -> None:
    """Print what `lightloom check` found, a line each."""
    table = Table("", "", "", box=box.SIMPLE, show_header=False, pad_edge=False)
    for finding in findings:
        mark = "[green]pass[/]" if finding.passed else "[bold red]FAIL[/]"
        table.add_row(mark, escape(finding.what), escape(finding.detail))
    where.print(table)
    failed = sum(not finding.passed for finding in findings)
    where.print(f"{escape(path)}: {len(findings) - failed} passed, {failed} failed; light is off")


def step(where: Console, done: "Step") -> None:
    """Print a step of a calibration: what it found, and what that cost."""
    from .page import measured, quantity

    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False)
    for side in ("left", "right", "right", "left", "left"):
        table.add_column(justify=side)
    for figure in done.figures:
        value, spread = measured(figure.value, figure.uncertainty)
        spread = f"+- {spread}" if spread else ""
        table.add_row(
            figure.name, value, spread, escape(figure.unit), f"[dim]{escape(figure.note)}[/]"
        )
    where.print(
        f"[bold]{done.name}[/]: {done.shots:,} shots, {_duration(done.seconds)} of the bench, "
        f"{_duration(done.computing_s)} of computing, {quantity(done.light_j, 'J')} of light"
    )
    where.print(table)
    for note in done.notes:
        where.print(f"[yellow]note:[/] {escape(note)}")


def calibration(where: Console, steps: "list[Step]", found: "Calibration", bench: str) -> None:
    """Print what a calibration cost, where it is, and what comes next."""
    from .page import quantity

    if steps:
        where.print(
            f"{len(steps)} steps: {sum(s.shots for s in steps):,} shots, "
            f"{_duration(sum(s.seconds for s in steps))} of the bench, "
            f"{_duration(sum(s.computing_s for s in steps))} of computing, "
            f"{quantity(sum(s.light_j for s in steps), 'J')} of light; light is off"
        )
    else:
        where.print("no step was left to do")
    where.print(
        f"stored in {escape(found.path)}; next: lightloom check --bench {escape(bench)} "
        f"--random-products 2000, then lightloom report {escape(bench)}"
    )


def merit(where: Console, found: "Accuracy") -> None:
    """Print how far random products are from their exact values."""
    where.print(
        f"\n{found.products:,} random products of length {found.length}, "
        f"{found.photons_full_scale:,.0f} photoelectrons per full-scale product of two elements; "
        f"{found.shots:,} shots, {found.retries} of them repeats"
    )
    where.print(
        f"error [bold]{found.over_floor:.3f}[/] x the floor of shot noise, read noise and steps; "
        f"bias {found.bias_over_floor:+.3f} +- {found.bias_error:.3f} x the floor; "
        f"{found.relative_error:.2%} of the values"
    )
    lights = Table(box=box.SIMPLE, pad_edge=False)
    lights.add_column("photoelectrons of an output", justify="right")
    lights.add_column("relative error", justify="right")
    for light, error in zip(found.light_e, found.error_at_light, strict=True):
        lights.add_row(f"{light:,.0f}", f"{error:.2%}")
    where.print(lights)
    where.print(_histogram(found))


_BAR = 30  # characters of the longest bar


def _histogram(found: "Accuracy") -> Table:
    """Draw residuals over predicted noise as bars, beside those of the ideal normal."""
    pairs = found.histogram.reshape(-1, 2).sum(axis=1)  # two neighbours in one bar
    edges = found.edges[::2]
    below = [0.0, *(0.5 + erf(float(edge) / 2**0.5) / 2 for edge in edges[1:-1]), 1.0]
    ideal = [(b - a) * found.products for a, b in pairwise(below)]
    longest = max(float(pairs.max()), *ideal)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("residual / noise", justify="right", no_wrap=True)
    table.add_column("found", justify="right")
    table.add_column("", min_width=_BAR)
    table.add_column("ideal", justify="right")
    table.add_column("", min_width=_BAR)
    for (low, high), count, wanted in zip(pairwise(edges), pairs, ideal, strict=True):
        bars = ["#" * round(_BAR * value / longest) for value in (float(count), wanted)]
        table.add_row(
            f"{low:+.1f} to {high:+.1f}", f"{count:,}", bars[0], f"{wanted:,.0f}", bars[1]
        )
    return table


def alignment(where: Console, found: "Alignment", bench: str, path: str) -> None:
    """Print what `lightloom align` found, and what comes next."""
    where.print(_alignment_table(found))
    for sentence in found.advice:
        where.print(f"- {escape(sentence)}")
    cost = found.cost
    where.print(
        f"{cost['shots']:.0f} shots, {_duration(cost['bench_s'])} of the bench, "
        f"{_duration(cost['computing_s'])} of computing, {cost['light_j']:.3g} J of light; "
        "light is off"
    )
    where.print(f"stored in {escape(path)}; next: lightloom calibrate --bench {escape(bench)}")


def live_alignment(where: Console, follow: Any, bench: "Bench") -> None:
    """Show where everything lies, again and again, until somebody interrupts."""
    with Live(console=where, auto_refresh=False, transient=True) as shown:

        def tell(text: str) -> None:
            shown.update(f"[yellow]{escape(text)}[/]", refresh=True)

        with closing(follow(bench, tell)) as alignments:
            for found in alignments:
                advice = "\n".join(f"- {escape(sentence)}" for sentence in found.advice)
                text = f"{advice}\n[dim]Ctrl-C ends this and stores a full alignment[/]"
                shown.update(Group(_alignment_table(found), text), refresh=True)


def _alignment_table(found: "Alignment") -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name, side in (("figure", "left"), ("value", "right"), ("+-", "right"), ("", "left")):
        table.add_column(name, justify=side, no_wrap=bool(name))  # type: ignore[arg-type]
    for figure in found.figures:
        spread = "" if figure.uncertainty is None else f"{figure.uncertainty:.2g}"
        value = f"{figure.value:,.4f} {figure.unit}".strip()
        table.add_row(escape(figure.name), value, spread, escape(figure.note))
    return table


def devices(where: Console, found: "list[FoundDevice]") -> None:
    """Print what is attached, with the lines for a bench file."""
    for item in found:
        where.print(f"[bold]{escape(item.kind)}[/] {escape(item.address)}", end="  ")
        where.print(escape(item.description), highlight=False)
        if item.toml:
            where.print(item.toml.strip(), markup=False, style="cyan")
    if not any(item.toml for item in found):
        where.print("nothing is attached; `lightloom init bench.toml` writes a simulated bench")


def profile(where: Console, shown: "OpticsProfile") -> None:
    """Print a profile's constants, each with its source."""
    where.print(f"\n[bold]{escape(shown.name)}[/]: {escape(shown.title)}")
    table = Table("constant", "value", "source")
    for key, value in shown.model_dump(exclude={"name", "title", "sources", "years"}).items():
        source = shown.sources.get(key, "not given: ideal, unlimited or assumed default")
        table.add_row(key, "-" if value is None else f"{value}", escape(source))
    where.print(table)


def findings() -> dict[str, Any]:
    """Collect what `lightloom doctor` says."""
    import numpy as np

    from ..backends import load_profile, profile_names
    from ..instruments.version import VERSION

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "lightloom": VERSION,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as there are processors"),
        "extras": {name: _installed(packages) for name, packages in _EXTRAS.items()},
        "mock_path": _mock_path(),
        "profiles": {name: load_profile(name).title for name in profile_names()},
    }


def doctor(where: Console, found: dict[str, Any]) -> None:
    """Print what `findings` collected."""
    for key in ("lightloom", "python", "numpy", "blas", "machine", "threads", "mock_path"):
        where.print(f"{key.replace('_', ' '):<10} {found[key]}")
    extras = Table("extra", "packages")
    for name, packages in found["extras"].items():
        text = ", ".join(f"{p} {v or '[yellow]missing[/]'}" for p, v in packages.items())
        extras.add_row(name, text)
    where.print(extras)
    profiles = Table("profile", "what it is")
    for name, title in found["profiles"].items():
        profiles.add_row(name, title)
    where.print(profiles)


def _installed(packages: tuple[str, ...]) -> dict[str, str | None]:
    names = importlib.metadata.packages_distributions()
    return {
        package: importlib.metadata.version(names[package][0])
        if importlib.util.find_spec(package) and package in names
        else None
        for package in packages
    }


def _mock_path() -> str:
    from ..backends import mock_path

    return "; ".join(f"{what}: {how}" for what, how in mock_path().items())


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}" if value else "-"


def _duration(seconds: float) -> str:
    if seconds == 0:
        return "-"
    if seconds >= 86400 * 2:
        return f"{seconds / 86400:,.3g} d"
    if seconds >= 7200:
        return f"{seconds / 3600:.3g} h"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return (
                f"{seconds / size:,.4g} {unit}" if unit == "s" else f"{seconds / size:.3g} {unit}"
            )
    return f"{seconds / 1e-9:.0f} ns"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
