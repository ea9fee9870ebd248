"""Draw the pictures of the docs from real runs: `python docs/make_pictures.py`."""

import io
from pathlib import Path

from lightloom.models import load_model, plan
from lightloom.models.model import load_arrays
from lightloom.models.shapes import model_or_shape
from rich.console import Console

from lightloom import energy, showing

PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    """Draw every picture."""
    draw_run()
    draw_energy()


def draw_energy() -> None:
    """Keep the account of GPT-3 on a projected bench as docs/pictures/energy.svg."""
    model, bench = model_or_shape("gpt3-175b"), "mock:projection-2030"
    document = energy.document([plan(model, bench, sequence=1024)], [], None, [])
    console = Console(record=True, width=110, highlight=False, file=io.StringIO())
    energy.show(console, document)
    title = "lightloom energy --model gpt3-175b --profile projection-2030 --sequence 1024"
    console.save_svg(str(PICTURES / "energy.svg"), title=title)


def draw_run() -> None:
    """Run the main job and keep what it prints as docs/pictures/run.svg."""
    model = load_model("digits")
    data = load_arrays(model.source / "data.safetensors")
    run = plan(model, "mock", batch=64).run(data["images"], data["labels"])
    console = Console(record=True, width=100, highlight=False, file=io.StringIO())
    showing.report(console, run.report())
    console.save_svg(str(PICTURES / "run.svg"), title="lightloom run")


if __name__ == "__main__":
    main()
