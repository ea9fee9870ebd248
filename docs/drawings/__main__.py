"""Draw the pictures of the docs: `python docs/drawings`, or some: `python docs/drawings rooms.svg`.

It needs the extra `report`; the two pictures of pages also need Chromium. Drawn again, a picture
has the same bytes, except those with times of this computer: run.svg and the pages.
"""

import argparse
from pathlib import Path

import account
import benches
import formulas
import number
import outputs
import programs
import training
from canvas import Output

DRAWN = {
    "number.svg": number.draw_number,
    "layouts.svg": benches.draw_layouts,
    "recoveries.svg": benches.draw_recoveries,
    "orders.svg": benches.draw_orders,
    "tracks.svg": benches.draw_tracks,
    "encodings.svg": formulas.draw_encodings,
    "noise.svg": formulas.draw_noise,
    "layer.svg": programs.draw_layer,
    "rooms.svg": programs.draw_rooms,
    "energy-answer.svg": account.draw_answer,
    "energy-widths.svg": account.draw_widths,
    "perplexity.svg": account.draw_perplexity,
    "accuracy.svg": account.draw_accuracy,
    "little-light.svg": training.draw_little_light,
    "check.svg": outputs.draw_check,
    "plan.svg": outputs.draw_plan,
    "energy.svg": outputs.draw_energy,
    "calibration.svg": outputs.draw_calibration,
    "run.svg": outputs.draw_run,
    "run-page.png": outputs.draw_run_page,
    "calibration-page.png": outputs.draw_calibration_page,
}
BY_COMMANDS = {  # pictures that commands of lightloom draw, from measurements that take long
    "scaling.svg": "python -m lightloom.benchmarks scaling family --picture scaling.svg",
    "trace.svg": "lightloom report trace.json --output trace.svg",
}


def main() -> None:
    """Draw some pictures, or all of them."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the docs.")
    parser.add_argument("names", nargs="*", metavar="PICTURE", help="all, if none is named")
    parser.add_argument("--to", type=Path, default=Output.folder, help="folder; it must exist")
    chosen = parser.parse_args()
    for name in chosen.names:
        if name not in DRAWN:
            parser.error(f"{name} is not a drawing; drawings are {', '.join(DRAWN)}")
    Output.folder = chosen.to
    for name in chosen.names or DRAWN:
        DRAWN[name]()


if __name__ == "__main__":
    main()
