"""Draw docs/images/demo.png, the README's picture of the demo.

ps-eval demo --output runs/demo
python docs/draw_demo.py runs/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

from ps_eval.reporting.plots import draw_accuracy
from ps_eval.reporting.summary import load_summary

TARGET = Path(__file__).parent / "images" / "demo.png"


def main(folder: str) -> None:
    """Draw the live rows: accuracy at the tokens that each policy really used."""
    rows = [row for row in load_summary(folder).rows if row.mode == "live"]
    draw_accuracy(rows).savefig(TARGET, dpi=130)


if __name__ == "__main__":
    main(sys.argv[1])
