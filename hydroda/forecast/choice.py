"""Which forecast is issued at each lead: the filter's, that of networks beside it, the mean of both, the trend of the
last hours or its mean with these, or the open loop with a corrected error, whichever was best in the past.

A filter that is best at twelve hours may be beaten at one by the last error, carried on; that is published then.
Arrays of discharge [m³/s] are (F, 24, S): issue times, leads, stations.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hydroda.forecast import correction, quarters
from hydroda.forecast.correction import Correction
from hydroda.schema import LEADS

FILTER, NETWORKS, BOTH = "filter", "networks", "filter_and_networks"
CORRECTIONS = ("open_loop", "decaying_error", "ar1_error", "ar1_log_error")
TREND, WITH_TREND = "trend", "with_trend"
FRESH = 6.0  # h, the age of an observation beyond which its trend tells nothing
UNPROVEN = (0.5, 1.5)  # times the highest flow on record, between which the share grows that is left to the open loop
YIELDED = 0.5  # of the forecast, the largest such share
# Share of the parts of the past in which a method must be better than the usual one to take its place; higher for
# methods without assimilation.
MOSTLY, NEARLY_ALWAYS = 0.51, 0.75
UNASSIMILATED = (*CORRECTIONS, TREND)
NEAR = 1.5  # a lead is judged with those up to so many times as far or as near, else chance would choose at each
# the share of each lead in what is issued at a lead (row): most its own, less of those up to a fifth nearer or further
WITHIN = np.minimum(LEADS // 5, LEADS[-1] - LEADS)[:, None]
AROUND = np.maximum(1.0 - np.abs(LEADS - LEADS[:, None]) / (WITHIN + 1.0), 0.0) / (WITHIN + 1.0)
METHODS = (FILTER, NETWORKS, BOTH, *UNASSIMILATED, WITH_TREND)
OF_NETWORKS = {NETWORKS: 1.0, BOTH: 0.5, WITH_TREND: 0.25}  # share of networks in a method, where there are any
CLASSICAL = (FILTER, *CORRECTIONS)  # what networks are to be better than


class Newest(NamedTuple):
    """The newest usable observation of stations [m³/s], the factor on its error variance by which it is doubted, its
    change in the hour before, the open loop of its hour, the residuals of its analysis and of that an hour before, its
    age [h]; or NaN. Where one of the two observations is doubted nothing is told of the hour before: a spike is not to
    be taken for a trend."""

    observed: np.ndarray
    doubt: np.ndarray
    change: np.ndarray
    open_loop: np.ndarray
    residual: np.ndarray
    residual_before: np.ndarray
    age: np.ndarray


def candidates(
    of_filter: np.ndarray,
    of_networks: np.ndarray | None,
    open_loop: np.ndarray,
    residual_hours: np.ndarray,
    corrections: Sequence[Correction],
    newest: Newest,
) -> dict[str, np.ndarray]:
    """What could be issued, by method, from what is known at issue (F, S).

    To the run of the model from the analysis what is left of the residual of that is added (observation less analysis,
    with memories `residual_hours`, (S, 2) or (F, 1, S, 2)): a gain that is good for a day leaves the first hours to it.
    Networks see no observation that is doubted; the filter does, with a larger error, and speaks for them then. An old
    observation tells no trend.
    """
    age = np.where(np.isfinite(newest.age), newest.age, np.inf)  # nothing is left of what was never seen
    now, before = correction.left(age[:, None] + LEADS[:, None], residual_hours)
    residual, earlier = correction.known(newest.residual, newest.residual_before)
    left = now * residual[:, None] + before * earlier[:, None]
    found = {FILTER: np.maximum(of_filter + left, 0.0)}
    if of_networks is not None:
        seen = np.where(newest.doubt[:, None] > 1.0, found[FILTER], of_networks)
        found |= {NETWORKS: seen, BOTH: 0.5 * (found[FILTER] + seen)}
    usual = found.get(BOTH, found[FILTER])
    issue = np.zeros(len(of_filter), "datetime64[ns]")  # none of these depends on the season
    at_issue = newest.observed, newest.open_loop, newest.age, newest.change
    found |= {name: correction.apply(name, corrections, issue, LEADS, open_loop, *at_issue) for name in UNASSIMILATED}
    found[TREND] = np.where(newest.age[:, None] <= FRESH, found[TREND], np.nan)
    return found | {WITH_TREND: 0.5 * (usual + found[TREND])}


def best(errors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The method (24,) for each lead from mean squared errors (part, 24) of all in several parts of the past, over the
    variance of what was observed.

    It is the mean of filter and networks, unless there are none or it is worse than the filter, which it is then: two
    that err apart are less often far off. Another takes its place where its loss is less (`quarters.loss`), and its
    error in most parts, in three of four where it does without assimilation: one great flood does not decide what is
    issued in all others. A lead is judged with its neighbours.
    """
    chosen = []
    losses = {name: quarters.loss(e) for name, e in errors.items()}
    logs = {name: np.log(e + quarters.PERFECT) for name, e in errors.items()}
    for lead in LEADS:
        near = (lead <= NEAR * LEADS) & (NEAR * lead >= LEADS)
        loss = {name: float(own[near].mean()) for name, own in losses.items()}
        parts = {name: own[:, near].mean(1) for name, own in logs.items()}
        usual = BOTH if BOTH in loss and loss[BOTH] <= loss[FILTER] + quarters.HARDLY else FILTER
        better = {
            name: own
            for name, own in loss.items()
            if own < loss[usual] - quarters.HARDLY
            and (parts[name] < parts[usual]).mean() >= (NEARLY_ALWAYS if name in UNASSIMILATED else MOSTLY)
        }
        chosen.append(min(better, key=better.__getitem__, default=usual))
    return tuple(chosen)


def without_networks(names: Sequence[str]) -> tuple[str, ...]:
    """Methods by lead where there are no networks: the filter goes on alone."""
    return tuple(FILTER if name in (NETWORKS, BOTH) else name for name in names)


def usable(forecasts: Mapping[str, np.ndarray], names: np.ndarray) -> np.ndarray:
    """The methods named (24, S), the filter where one has no forecast (24, S) to give."""
    nothing = np.full(names.shape, np.nan)
    silent = [(names == name) & np.isnan(forecasts.get(name, nothing)) for name in np.unique(names)]
    return np.where(np.any(silent, 0), FILTER, names)


def near_leads(values: np.ndarray) -> np.ndarray:
    """The mean over neighbouring leads of what there is, values (…, 24, S); NaN stays."""
    there = np.isfinite(values)
    weight = AROUND @ there
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there, (AROUND @ np.where(there, values, 0.0)) / weight, np.nan)


def blended(forecasts: Mapping[str, np.ndarray], names: np.ndarray) -> np.ndarray:
    """The forecast (F, 24, S) [m³/s] by the methods named (24, S), out of those by every method; where one has none,
    the filter's. Where the method changes from lead to lead, both have a share at the leads around: no river jumps
    there."""
    found = np.zeros_like(forecasts[FILTER])
    for name in np.unique(names):
        values = forecasts.get(name, forecasts[FILTER])
        share = AROUND @ (names == name)
        found = found + np.where(share > 0.0, share * np.where(np.isfinite(values), values, forecasts[FILTER]), 0.0)
    return found


def beyond(issued: np.ndarray, highest: np.ndarray | float) -> np.ndarray:
    """The share (F, 24, S) of forecasts that is left to the open loop with its last error near and beyond the highest
    flow (S,) of the record, in their unit; it grows from half of that to one and a half times it.

    No record tells how well a gain, tuned or learned, does in floods that it does not hold. The open loop with its last
    error, in which one number was fitted, errs otherwise, and a mean of the two is less often far off.
    """
    low, high = UNPROVEN
    return YIELDED * np.nan_to_num(np.clip((issued / highest - low) / (high - low), 0.0, 1.0))


def moderated(issued: np.ndarray, forecasts: Mapping[str, np.ndarray], share: np.ndarray) -> np.ndarray:
    """What is issued (F, 24, S) where a share of it is left to the open loop with its last error, as `beyond` says."""
    other = forecasts["decaying_error"]
    return issued + np.where(np.isfinite(other), share, 0.0) * (np.nan_to_num(other) - issued)


def share_in_words(share: np.ndarray) -> list[str]:
    """In words what is left to the open loop of each catchment, shares (24, S); empty where nothing is."""
    told = []
    for own in share.T:
        at, most = np.flatnonzero(own), round(100.0 * float(own.max(initial=0.0)))
        told.append(f"up to {most} % left to open loop + last error {span(at)}" if at.size else "")
    return told


def span(at: np.ndarray) -> str:
    """The leads at positions (k,) in words: "at 3-12 h"."""
    return f"at {LEADS[at[0]]}-{LEADS[at[-1]]} h"


def in_words(names: Sequence[str]) -> str:
    """Methods by lead in words: "filter to 6 h, then decaying error"."""
    parts: list[tuple[str, int]] = []
    for name, lead in zip(names, LEADS, strict=True):
        if parts and parts[-1][0] == name:
            parts.pop()
        parts.append((name, int(lead)))
    words = [f"{name.replace('_', ' ')} to {lead} h" for name, lead in parts]
    return ", ".join(words)


def flags(names: np.ndarray) -> np.ndarray:
    """Methods by name (…) as flags 1, 2, … in the order of `METHODS`; 0 is for none."""
    return 1 + np.array([METHODS.index(name) for name in names.flat], np.int8).reshape(names.shape)
