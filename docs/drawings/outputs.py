"""Pictures of real outputs: what commands print, plots of a calibration, and pages of results."""

import io
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from canvas import COLOURS, SMALL, Output, plot, save_text
from lightloom.backends.bench import (
    FIRST_PRODUCTS,
    BenchBackend,
    check_bench,
    example_file,
    load_bench,
)
from lightloom.backends.bench.accuracy import Accuracy, random_products
from lightloom.backends.calibration import align, store
from lightloom.backends.calibration.calibrate import calibrate
from lightloom.backends.optics.calibration_file import Calibration
from lightloom.models import load_arrays, load_model
from lightloom.models.shapes import model_or_shape
from lightloom.scheduler import account_document
from lightloom.scheduler.energy.tables import baseline_table, kind_table
from lightloom.scheduler.journal.journal_file import JournalFile
from lightloom.scheduler.runs import plan
from matplotlib.axes import Axes
from PIL import Image
from rich.console import Console

from lightloom.report.calibration import calibration_page
from lightloom.report.run import run_page
from lightloom.report.terminal.bench import show_checks
from lightloom.report.terminal.console import show_tables
from lightloom.report.terminal.run import show_plan, show_report

# --- what commands print --------------------------------------------------------------------------


@contextmanager
def _terminal(name: str, title: str, width: int = 100) -> Iterator[Console]:
    """Collect what is printed within the `with` block, and save it as a picture of a terminal."""
    console = Console(
        record=True, width=width, highlight=False, file=io.StringIO(), force_terminal=True
    )
    yield console
    text = console.export_svg(title=title)
    # the font would be loaded from outside
    text = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"(<svg [^>]*>)", rf"\1\n    <title>What {title} prints</title>", text, count=1)
    save_text(f"{name}.svg", text)


def draw_run() -> None:
    """Run the main job and keep what it prints as run.svg; its times are those of this computer."""
    model = load_model("digits")
    data = load_arrays(model.source / "data.safetensors")
    run = plan(model, "mock", batch=64).run(data["images"], data["labels"])
    with _terminal("run", "lightloom run") as console:
        show_report(console, run.report())


def draw_check() -> None:
    """Check a tiny simulated bench and keep what that prints as check.svg."""
    with tempfile.TemporaryDirectory() as folder:
        findings, _ = check_bench(load_bench(_bench_file(folder, tiny=True)), FIRST_PRODUCTS, 1)
    with _terminal("check", "lightloom check --bench bench.toml") as console:
        show_checks(console, "bench.toml", findings)


def draw_plan() -> None:
    """Plan a prompt of GPT-2 and keep what that prints as plan.svg."""
    title = "lightloom plan --model gpt2 --sequence 128 --profile dmd-camera"
    with _terminal("plan", title, 110) as console:
        show_plan(console, plan(model_or_shape("gpt2"), "mock:dmd-camera", sequence=128))


def draw_energy() -> None:
    """Keep the kinds and the comparison of GPT-3 on a projected bench as energy.svg."""
    planned = plan(model_or_shape("gpt3-175b"), "mock:projection-2030", sequence=1024)
    document = account_document(planned.energy())
    with _terminal("energy", "lightloom energy: kinds of energy, and digital machines") as console:
        show_tables(console, [kind_table(document), baseline_table(document)])


# --- plots of a calibration -----------------------------------------------------------------------


def draw_calibration() -> None:
    """Align and calibrate a bench as found, and keep six of its plots as calibration.svg."""
    with tempfile.TemporaryDirectory() as folder:
        path, found = _calibrated(folder, tiny=False, seed=1)
        with BenchBackend(load_bench(path)) as backend:
            accuracy = random_products(backend, 4000)
    with plot("calibration", "Six plots of one calibration", 470) as figure:
        axes = figure.subplots(2, 3).ravel()
        _plot_detector(axes[0], found)
        _plot_modulators(axes[1:3], found)
        shown = axes[3].imshow(found.array("flat_field", "slot_gains"), aspect="auto")
        axes[3].set(title="Gain of slots, over mean")
        figure.colorbar(shown, ax=axes[3])
        axes[4].plot(found.array("drift", "light"), linewidth=0.8, color=COLOURS["orange"])
        axes[4].set(title="Light of the same frames", xlabel="shot", ylabel="over its mean")
        _plot_residuals(axes[5], accuracy)


def _plot_detector(axes: Axes, found: Calibration) -> None:
    light = found.array("photon_transfer", "mean_counts")
    noise = found.array("photon_transfer", "variance_counts")
    some = np.linspace(0, len(light) - 1, 150).astype(int)
    axes.loglog(light[some], noise[some], ".", markersize=2, color=COLOURS["purple"])
    axes.set(title="Photon transfer", xlabel="counts", ylabel="variance, counts²")


def _plot_modulators(axes: np.ndarray, found: Calibration) -> None:
    for role, colour in (("input", COLOURS["blue"]), ("weight", COLOURS["orange"])):
        levels = found.array("response_curves", f"{role}_levels")
        light = found.array("response_curves", f"{role}_light")
        axes[0].plot(levels, light, label=role, color=colour)
        moments, share = (
            found.array("settling", f"{role}_{key}") for key in ("moments_s", "share")
        )
        axes[1].plot(moments * 1e3, share, "o", markersize=3, label=role, color=colour)
    axes[0].set(title="Response curves", xlabel="grey level", ylabel="light, brightest = 1")
    axes[1].set(title="Settling", xlabel="after the flip, ms", ylabel="part of the change")
    axes[0].legend(), axes[1].legend()


def _plot_residuals(axes: Axes, accuracy: Accuracy) -> None:
    middle = (accuracy.edges[1:] + accuracy.edges[:-1]) / 2
    width = middle[1] - middle[0]
    axes.bar(middle, accuracy.histogram, width=width, color=COLOURS["blue"])
    ideal = np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi) * width * accuracy.products
    axes.plot(middle, ideal, "k", linewidth=1)
    axes.set(xlabel="over predicted noise", title=f"Residuals, {accuracy.products:,} products")
    axes.title.set_size(SMALL + 1)


# --- pages of results -----------------------------------------------------------------------------


def draw_run_page() -> None:
    """Record a run on a tiny simulated bench, and keep the top of its page as run-page.png."""
    model = load_model("digits")
    data = load_arrays(model.source / "data.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "run.db"
        with BenchBackend(load_bench(_bench_file(folder, tiny=True))) as backend:
            planned = plan(model, backend, batch=4)
            planned.run(data["images"][:8], data["labels"][:8], record=record)
        with JournalFile(record) as journal:
            _screenshot("run-page", run_page(journal), 1290)


def draw_calibration_page() -> None:
    """Calibrate a tiny bench as found, and keep the top of its page as calibration-page.png."""
    with tempfile.TemporaryDirectory() as folder:
        _, found = _calibrated(folder, tiny=True, seed=3)
        _screenshot("calibration-page", calibration_page(found), 1140)


def _screenshot(name: str, page: str, height: int) -> None:
    """Save the top of a page as a PNG of 128 colours, as Chromium shows it in light mode."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise FileNotFoundError("a picture of a page needs chromium on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        path, image = Path(folder) / "page.html", Path(folder) / "page.png"
        path.write_text(page, encoding="utf-8")
        subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--hide-scrollbars",
             f"--screenshot={image}", f"--window-size=900,{height}", path.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        with Image.open(image) as shown:
            few = shown.convert("RGB").quantize(128)
            few.save(Output.folder / f"{name}.png", optimize=True)


# --- benches --------------------------------------------------------------------------------------


def _bench_file(folder: str, tiny: bool, as_found: bool = False, seed: int = 0) -> Path:
    path = Path(folder) / "bench.toml"
    text = example_file("imaged", tiny=tiny, as_found=as_found, seed=seed)
    path.write_text(text, encoding="utf-8")
    return path


def _calibrated(folder: str, tiny: bool, seed: int) -> tuple[Path, Calibration]:
    """Align and calibrate a bench as found; return its file and its calibration."""
    path = _bench_file(folder, tiny, as_found=True, seed=seed)
    with load_bench(path) as bench:
        store(bench, align(bench))
    return path, calibrate(load_bench(path))
