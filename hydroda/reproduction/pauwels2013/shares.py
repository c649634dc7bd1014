"""Choosing γ and κ: every pair of a grid is a row of one run, judged by its innovations (`bias_shares`)."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from hydroda.reproduction.pauwels2013.record import MODEL, Record
from hydroda.reproduction.pauwels2013.study import SETTLE, Row, Run, run
from hydroda.trials.bias_shares import Judged, judged

GAMMAS = (1.0, 0.98, 0.95, 0.9, 0.7, 0.4, 0.1)
KAPPAS = (0.0, 0.03, 0.05, 0.1, 0.3, 1.0, 10.0, 100.0)


class Scan(NamedTuple):
    """Pairs (γ, κ) as rows, how each was judged, its run, and the best pair of those that estimate both biases."""

    rows: list[Row]
    judged: Judged
    run: Run
    best: Row


def scan(
    record: Record, observation: Tensor, size: float, *, sinusoidal: bool = False, p: Tensor = MODEL.defaults
) -> Scan:
    """The pairs of a grid on the weekly observations (T, 1) of experiment 2, or of the real river."""
    rows = [Row(2, sinusoidal, gamma, kappa) for gamma in GAMMAS for kappa in KAPPAS]
    found = run(record, rows, observation.expand(-1, len(rows)), size, p)
    parts = (
        part[SETTLE:].numpy() for part in (found.innovation, found.normalised, found.gauge, found.bias, found.storages)
    )
    how = judged(*parts)
    both = np.array([row.gamma < 1.0 and row.kappa > 0.0 for row in rows])
    return Scan(rows, how, found, rows[int(np.nanargmin(np.where(both, how.loss, np.nan)))])
