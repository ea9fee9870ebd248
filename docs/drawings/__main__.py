"""Draw the pictures of the docs: `python docs/drawings`, or some: `python docs/drawings rooms.svg`.

Drawn again, a drawing has the same bytes; only pictures that show times of this computer differ.
"""

import sys

import account
import benches
import formulas
import number
import outputs
import programs

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


def main(names: list[str]) -> None:
    """Draw some pictures, or all of them."""
    for name in names or DRAWN:
        if name not in DRAWN:
            raise SystemExit(f"{name} is not a drawing; drawings are {', '.join(DRAWN)}")
        DRAWN[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
