"""Draw docs/images/price_line.png: one price line cutting three curves.

python docs/draw_price_line.py
"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from ps_alloc import allocate
from ps_alloc.kernels.menus import envelopes

WINDOW, W, MEAN_TOKENS = 16, 16, 112
OUTPUT = Path(__file__).parent / "images" / "price_line.png"


def main() -> None:
    """Allocate to three curves and draw curve, envelope and the line of equal worth at the price."""
    k = np.arange(1, W + 1)
    curves = {
        "easy: concave": 0.85 * (1 - np.exp(-k / 2.2)),
        "medium: S-shaped": 0.1 + 0.75 / (1 + np.exp(-(k - 8.5) / 0.9)),
        "hard: rises late and little": 0.05 + 0.22 / (1 + np.exp(-(k - 13.0) / 0.8)),
    }
    values = np.stack(list(curves.values()))
    allocation = allocate(values, len(values) * MEAN_TOKENS, window=WINDOW, leftover="keep")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.9), sharey=True, layout="constrained")
    for panel, (name, curve), windows in zip(panels, curves.items(), allocation.windows, strict=True):
        tokens = k * WINDOW
        _, items, _ = envelopes(np.array([0, W]), tokens, curve, 0.0)
        vertices = np.concatenate(([0], items))
        panel.plot(
            tokens[vertices], curve[vertices], color="tab:blue", linewidth=5, alpha=0.25, label="envelope"
        )
        panel.plot(tokens, curve, "o-", color="tab:blue", markersize=3, linewidth=1, label="curve")
        bought = curve[windows - 1]
        line = bought + allocation.price * (tokens - windows * WINDOW)
        panel.plot(tokens, line, "--", color="tab:red", linewidth=1, label="slope = price")
        panel.plot(windows * WINDOW, bought, "o", color="tab:red", markersize=8, label="chosen")
        panel.set(
            title=f"{name}\n{windows * WINDOW} tokens", xlabel="reasoning tokens", ylim=(0, 1), xlim=(0, 264)
        )
        panel.set_xticks([0, 64, 128, 192, 256])
    panels[0].set_ylabel("accuracy")
    panels[0].legend(frameon=False, loc="lower right", fontsize=8)
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)


if __name__ == "__main__":
    main()
