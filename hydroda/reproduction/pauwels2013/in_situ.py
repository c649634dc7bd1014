"""The Zwalm as it is: its discharge once a week into HBV calibrated on it, judged on the days between."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydroda.reproduction.pauwels2013.record import FLOW, Record
from hydroda.reproduction.pauwels2013.study import SETTLE, WEEK, Row, Run, run


class Judgement(NamedTuple):
    """A filter on the days between observations [m³/s]: rmse and mean error of what it expects the gauge to read, rmse
    of the discharge without the gauge's bias, and mean biases (of S, S1, S2 [mm], of the gauge)."""

    name: str
    row: Row
    rmse: float
    bias: float
    unbiased: float
    storages: tuple[float, ...]
    gauge: float


def weekly(record: Record) -> Tensor:
    """Discharge (T, 1) of every seventh day, NaN between."""
    chosen = np.arange(len(record.day)) % WEEK == WEEK - 1
    return torch.from_numpy(np.where(chosen, record.observed, np.nan)).unsqueeze(1)


def validated(record: Record, best: Row, size: float, p: Tensor) -> tuple[list[Judgement], Run]:
    """The open loop, the bias-unaware filter, and the two-stage filter with all biases and with each alone."""
    named = {
        "open loop": Row(2, False, open_loop=True),
        "EnKF": Row(2, False),
        "forecast and gauge bias": best,
        "forecast bias alone": best._replace(kappa=0.0),
        "gauge bias alone": best._replace(gamma=1.0),
    }
    rows = list(named.values())
    seen = weekly(record)
    observation = torch.cat([torch.full_like(seen, torch.nan) if row.open_loop else seen for row in rows], 1)
    found = run(record, rows, observation, size, p)
    between = np.isfinite(record.observed) & ~np.isfinite(seen[:, 0].numpy())
    between[:SETTLE] = False
    real = record.observed[between, None]
    read = (found.discharge + found.gauge).numpy()[between] - real
    fair = found.discharge.numpy()[between] - real
    storages, gauge = found.bias[SETTLE:].mean(0), found.gauge[SETTLE:].mean(0) / FLOW
    judged = [
        Judgement(
            name,
            row,
            float(np.sqrt(np.mean(read[:, i] ** 2)) / FLOW),
            float(read[:, i].mean() / FLOW),
            float(np.sqrt(np.mean(fair[:, i] ** 2)) / FLOW),
            tuple(storages[i].tolist()),
            float(gauge[i]),
        )
        for i, (name, row) in enumerate(named.items())
    ]
    return judged, found
