"""How pictures look and how they become bytes: few colours, told apart without colour too.

Figures are made without pyplot, so nothing global keeps them alive, and the same data give the same bytes.
"""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito's colours, safe for colour-blind eyes; the orange is darkened for thin lines on white.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#B87300", "#009E73", "#D55E00", "#A6527F", "#56B4E9"
INK, GREY, PALE = "#1a1a1a", "#767676", "#f3f3f0"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e0",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "hydroda",
}
LINES: dict[str, dict[str, Any]] = {
    "forecast": {"color": BLUE, "linewidth": 2.8, "zorder": 5},
    "persistence": {"color": INK, "linestyle": ":", "linewidth": 1.6},
    "climatology": {"color": GREY, "linestyle": "-.", "linewidth": 1.2},
    "open_loop": {"color": ORANGE, "linestyle": "--", "linewidth": 1.6},
    "decaying_error": {"color": VERMILLION, "linewidth": 1.6},
    "ar1_error": {"color": GREEN, "linewidth": 1.4},
    "ar1_log_error": {"color": PURPLE, "linestyle": (0, (4, 1.5)), "linewidth": 1.4},
}


def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element; text stays text."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
