"""Draw the pictures of the docs from real runs: `python docs/make_pictures.py`."""

import io
import tempfile
from pathlib import Path

import numpy as np
from lightloom.backends.bench import BenchBackend, example_file, load_bench
from lightloom.backends.bench.accuracy import random_products
from lightloom.backends.calibration import align, store
from lightloom.backends.calibration.calibrate import calibrate
from lightloom.models import load_arrays, load_model
from lightloom.models.shapes import model_or_shape
from lightloom.scheduler.runs import plan
from matplotlib.figure import Figure
from rich.console import Console

from lightloom.cli.energy import energy_document
from lightloom.report.terminal.run import show_energy, show_report

PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    """Draw every picture."""
    draw_run()
    draw_energy()
    draw_calibration()


def draw_calibration() -> None:
    """Align and calibrate a bench as found, and keep six of its plots as calibration.svg."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(example_file("imaged", as_found=True, seed=1), encoding="utf-8")
        bench = load_bench(path)
        with bench:
            store(bench, align(bench))
        arrays = calibrate(load_bench(path)).array
        with BenchBackend(load_bench(path)) as backend:
            accuracy = random_products(backend, 4000)
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    light = arrays("photon_transfer", "mean_counts")
    noise = arrays("photon_transfer", "variance_counts")
    some = np.linspace(0, len(light) - 1, 1500).astype(int)
    axes[0].loglog(light[some], noise[some], ".", markersize=2, rasterized=True)
    axes[0].set(title="Photon transfer", xlabel="counts", ylabel="variance, counts²")
    for role in ("input", "weight"):
        levels = arrays("response_curves", f"{role}_levels")
        axes[1].plot(levels, arrays("response_curves", f"{role}_light"), label=role)
        moments, share = (arrays("settling", f"{role}_{what}") for what in ("moments_s", "share"))
        axes[2].plot(moments * 1e3, share, "o", markersize=3, label=role)
    axes[1].set(title="Grey levels", xlabel="level", ylabel="light, brightest = 1")
    axes[2].set(title="Settling", xlabel="after the flip, ms", ylabel="share of the change")
    axes[1].legend(), axes[2].legend()
    shown = axes[3].imshow(arrays("flat_field", "slot_gains"), aspect="auto")
    axes[3].set(title="Gain of slots, over their mean")
    figure.colorbar(shown, ax=axes[3])
    axes[4].plot(arrays("drift", "light"), linewidth=0.8)
    axes[4].set(title="Light of the same frames", xlabel="shot", ylabel="over its mean")
    middle = (accuracy.edges[1:] + accuracy.edges[:-1]) / 2
    width = middle[1] - middle[0]
    axes[5].bar(middle, accuracy.histogram, width=width)
    ideal = np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi) * width * accuracy.products
    axes[5].plot(middle, ideal, "k")
    axes[5].set(
        title=f"Residuals of {accuracy.products:,} random products", xlabel="over predicted noise"
    )
    figure.savefig(PICTURES / "calibration.svg", metadata={"Date": None})


def draw_energy() -> None:
    """Keep the account of GPT-3 on a projected bench as docs/pictures/energy.svg."""
    model, bench = model_or_shape("gpt3-175b"), "mock:projection-2030"
    document = energy_document([plan(model, bench, sequence=1024)], [], None, [])
    console = Console(record=True, width=110, highlight=False, file=io.StringIO())
    show_energy(console, document)
    title = "lightloom energy --model gpt3-175b --profile projection-2030 --sequence 1024"
    console.save_svg(str(PICTURES / "energy.svg"), title=title)


def draw_run() -> None:
    """Run the main job and keep what it prints as docs/pictures/run.svg."""
    model = load_model("digits")
    data = load_arrays(model.source / "data.safetensors")
    run = plan(model, "mock", batch=64).run(data["images"], data["labels"])
    console = Console(record=True, width=100, highlight=False, file=io.StringIO())
    show_report(console, run.report())
    console.save_svg(str(PICTURES / "run.svg"), title="lightloom run")


if __name__ == "__main__":
    main()
