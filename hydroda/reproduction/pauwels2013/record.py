"""The daily record of the Zwalm at Nederzwalm that the study runs on, and the random errors of its weather.

The paper has an earlier period of the same river. Area, parameters and step are the paper's: 114.3 km², one day.
"""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hydroda.filters.noise import Noise, address
from hydroda.models.hbv import AREA_ZWALM, pauwels2013
from hydroda.units import mm_per_hour

FILE = Path("zwalm_daily") / "zwalm_daily.csv.gz"
MODEL = pauwels2013(24.0)
MEMBERS = 32
FLOW = float(mm_per_hour(np.array(1.0), np.array(AREA_ZWALM)))  # mm/h that are 1 m³/s
SEED = 2013
HERE = np.array([address("zwalm")])
SPIN_UP = 365  # days that fill the stores
SIZES, HALVINGS = (0.05, 0.8), 5
UNSURE = {"rain": 1.0, "pet": 0.5, "parameters": 0.25}  # relative errors, times the size that is tuned


@dataclass(frozen=True)
class Record:
    """Days (T,), rain and PET (T, 2) [mm/h], discharge (T,) [mm/h] with NaN where missing."""

    day: np.ndarray
    forcing: Tensor
    observed: np.ndarray

    def part(self, first: str, last: str) -> "Record":
        """The days from `first` to `last`."""
        some = (self.day >= np.datetime64(first)) & (self.day <= np.datetime64(last))
        return Record(self.day[some], self.forcing[some], self.observed[some])


def read(folder: Path) -> Record:
    """The record in a folder of real data. Raises FileNotFoundError saying what is needed and where it goes."""
    path = folder / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: the study needs the daily record of the Zwalm (columns time, "
            "precipitation_mm_per_day, potential_evapotranspiration_mm_per_day, discharge in m3/s); name the folder it "
            "is in by HYDRODA_REAL_DATA"
        )
    with gzip.open(path, "rt", encoding="utf-8") as text:
        lines = list(csv.reader(text))[1:]
    day = np.array([line[0] for line in lines], "datetime64[D]")
    values = np.array([[float(value) if value else np.nan for value in line[1:4]] for line in lines])
    return Record(day, torch.from_numpy(values[:, :2] / 24.0), values[:, 2] * FLOW)


def parameters(size: float, best: Tensor | None = None) -> Tensor:
    """Perturbed parameters (1, N, k): of log-normal errors with the relative size `UNSURE`, times `size`."""
    own = MODEL.defaults if best is None else best
    draws = Noise(SEED, HERE, np.zeros(1)).normal("parameters", MEMBERS, own.shape[-1])
    return own * torch.exp(size * UNSURE["parameters"] * draws)


def weather(record: Record, size: float, members: int = MEMBERS) -> Tensor:
    """Forcing (T, N, 2) of every member: rain and PET with log-normal errors of mean one, drawn for every day."""
    days = (record.day - np.datetime64(0, "D")).astype(np.int64)
    noise = Noise(SEED, np.repeat(HERE, days.size), days)
    parts = []
    for i, name in enumerate(("rain", "pet")):
        deviation = size * UNSURE[name]
        factor = torch.exp(deviation * noise.normal(name, members) - 0.5 * deviation**2)
        parts.append(record.forcing[:, i, None] * factor)
    return torch.stack(parts, -1)


def skill(record: Record, size: float, p: Tensor) -> float:
    """Mean squared error of the ensemble mean over mean ensemble variance, of observed discharge without assimilation.

    One where the spread is that of the error (De Lannoy et al. 2006, eq. 6).
    """
    own, seen, flows = parameters(size, p), np.isfinite(record.observed), []
    seen[:SPIN_UP] = False
    with torch.inference_mode():
        x = MODEL.start(own)
        for u in weather(record, size):
            x = MODEL.step(x, u, own)
            flows.append(MODEL.discharge(x, own)[0, :, 0])
        flow = torch.stack(flows)[seen].numpy()
    return float(np.mean((flow.mean(1) - record.observed[seen]) ** 2) / flow.var(1, ddof=1).mean())


def tuned_size(record: Record, p: Tensor) -> tuple[float, float]:
    """The size of perturbations whose ensemble has the spread of its error, and the ratio there; by bisection."""
    low, high = SIZES
    for _ in range(HALVINGS):
        size = (low * high) ** 0.5
        low, high = (size, high) if skill(record, size, p) > 1.0 else (low, size)
    size = (low * high) ** 0.5
    return size, skill(record, size, p)
