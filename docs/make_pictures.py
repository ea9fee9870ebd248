"""Draw the pictures of the docs from real runs: `python docs/make_pictures.py`."""

import io
from pathlib import Path

from lightloom.models import load_model, plan
from lightloom.models.model import load_arrays
from rich.console import Console

from lightloom import showing

PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    """Run the main job and keep what it prints as docs/pictures/run.svg."""
    model = load_model("digits")
    data = load_arrays(model.source / "data.safetensors")
    run = plan(model, "mock", batch=64).run(data["images"], data["labels"])
    console = Console(record=True, width=100, highlight=False, file=io.StringIO())
    showing.report(console, run.report())
    console.save_svg(str(PICTURES / "run.svg"), title="lightloom run")


if __name__ == "__main__":
    main()
