"""The fit of a model: a twin is recovered, missing and unscored hours do not matter, chunks are one continuous run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hydroda.calibrating import calibration
from hydroda.calibrating.calibration import fit_model
from hydroda.forecast.cycle import trajectory
from hydroda.models import hbv
from hydroda.models.model import from_unit

MODEL = hbv.hourly()
FILTER = [i for i, p in enumerate(MODEL.parameters) if p.role == "filter"]
LEAD, HOURS = 600, 1500  # before what is scored, and in all
QUICK = {"soil_capacity": 60.0, "percolation": 0.8, "slow_rate": 0.03}  # a memory shorter than LEAD
SEARCHED = {"soil_capacity", "fast_share", "fast_rate", "routing_time", "rain_factor"}  # enough to be lost without
SMALL = {"generations": 3, "population": 8}


def quick(values):
    """Parameters (k, parameter) of a catchment with a short memory."""
    names = [p.name for p in MODEL.parameters]
    values[:, [names.index(name) for name in QUICK]] = list(QUICK.values())
    return values


def truth():
    """Parameters (k,) that are not the defaults."""
    z = np.random.default_rng(4).uniform(0.2, 0.8, (1, len(MODEL.parameters)))
    return quick(from_unit(MODEL.parameters, z))[0]


@pytest.fixture(autouse=True)
def short_spin_up(monkeypatch):
    monkeypatch.setattr(calibration, "SPIN_UP", LEAD)


@pytest.fixture(scope="module")
def twin():
    """Forcing (T, m), runoff (T,) of the model with parameters that are not its defaults, scored hours (T,)."""
    rng = np.random.default_rng(3)
    wet = np.repeat(rng.random(HOURS // 12) < 0.2, 12)
    rain = np.where(wet, rng.exponential(1.0, HOURS), 0.0)
    pet = 0.1 * np.maximum(np.sin(2 * np.pi * (np.arange(HOURS) - 6) / 24), 0.0)
    forcing = np.stack((rain, pet), 1)
    p = torch.from_numpy(truth())[None, None]
    path = trajectory(MODEL, MODEL.start(p), torch.from_numpy(forcing).unsqueeze(1), p)
    runoff = np.array([MODEL.discharge(x, p).item() for x in path])
    return forcing, runoff, np.arange(HOURS) >= LEAD


def test_a_twin_is_recovered_and_progress_is_told(twin):
    def known(p, value):
        return p if p.name in SEARCHED else replace(p, default=value, role="filter")

    model = replace(MODEL, parameters=tuple(map(known, MODEL.parameters, truth())))
    told = []
    fit = fit_model(model, *twin, generations=25, population=20, progress=lambda *said: told.append(said))
    assert fit.nse > 0.98
    assert fit.kge > 0.9
    assert fit.hours == HOURS - LEAD
    assert fit.states.shape == (HOURS, len(MODEL.states))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    shares = [float(text.split()[1]) for _, text in told]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.02


def test_hours_held_out_of_the_search_decide_among_what_was_tried(twin, monkeypatch):
    """A search on a record with false hours takes what is wrong; the hours it did not see say so."""
    monkeypatch.setattr(calibration, "NEEDED", 200)
    forcing, observed, scored = twin
    hour = np.arange(HOURS)
    seen, held = scored & (hour < 1200) & (hour >= LEAD), hour >= 1200
    false = np.where(seen, observed * (1.0 + 0.5 * np.sin(hour / 40.0)), observed)
    alone = fit_model(MODEL, forcing, false, seen, **SMALL)
    both = fit_model(MODEL, forcing, false, seen, held, **SMALL)

    def error(fit, where):
        return np.mean((calibration.runoff(MODEL, fit.parameters, fit.states) - false)[where] ** 2)

    assert error(both, held) < error(alone, held)
    assert both.hours == alone.hours == seen.sum()
    with pytest.raises(ValueError, match="to validate on"):
        fit_model(MODEL, forcing, false, seen, hour >= HOURS - 24, **SMALL)
    still = np.where(held, 0.1, false)
    with pytest.raises(ValueError, match=r"never changes in the .* to validate on: a stuck gauge"):
        fit_model(MODEL, forcing, still, seen, held, **SMALL)


def test_parameters_are_in_their_interval_and_those_of_the_filter_at_default(twin):
    found = fit_model(MODEL, *twin, **SMALL).parameters
    for value, p in zip(found, MODEL.parameters, strict=True):
        assert p.lower <= value <= p.upper, p.name
    assert FILTER
    assert [found[i] for i in FILTER] == [MODEL.parameters[i].default for i in FILTER]


def test_the_seed_decides(twin):
    first, again, other = (fit_model(MODEL, *twin, seed=seed, **SMALL).parameters for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_missing_hours_are_hours_that_do_not_count(twin):
    forcing, runoff, scored = twin
    gap = (np.arange(HOURS) >= 1000) & (np.arange(HOURS) < 1100)
    missing = fit_model(MODEL, forcing, np.where(gap, np.nan, runoff), scored, **SMALL)
    unscored = fit_model(MODEL, forcing, np.where(gap | ~scored, 1e6, runoff), scored & ~gap, **SMALL)
    assert np.array_equal(missing.parameters, unscored.parameters)
    assert missing.hours == unscored.hours == HOURS - LEAD - gap.sum()
    assert missing.nse == unscored.nse


@pytest.mark.parametrize("hours", [0, 719])
def test_less_than_thirty_days_is_refused(twin, hours):
    forcing, runoff, scored = twin
    observed = np.where(np.cumsum(scored) <= hours, runoff, np.nan)
    with pytest.raises(ValueError, match=rf"{hours} hours .* 720 .* longer period"):
        fit_model(MODEL, forcing, observed, scored)


def test_parameters_without_finite_discharge_do_not_stop_the_search(twin):
    def fragile(x, p):
        return torch.where(p[0] > 250.0, torch.nan, MODEL.runoff(x, p))

    fit = fit_model(replace(MODEL, runoff=fragile), *twin, **SMALL)
    assert np.isfinite(fit.nse)
    assert fit.parameters[0] <= 250.0


def test_chunks_give_the_error_of_one_run(twin):
    forcing, runoff, scored = twin
    p = quick(np.array([[p.default for p in MODEL.parameters]]))
    chunks = calibration._chunks(forcing, np.where(scored, runoff, np.nan), population=96)
    assert chunks[0].shape[1] > 3
    chunked = calibration._square_errors(MODEL, torch.from_numpy(p), *chunks)[:, 0]
    errors = calibration.runoff(MODEL, p[0], calibration.open_loop(MODEL, p[0], forcing)) - runoff
    length = int(np.isfinite(chunks[1].numpy()[:, 0]).sum())
    parts = np.split(errors[scored] ** 2, range(length, int(scored.sum()), length))
    np.testing.assert_allclose(chunked, [part.mean() for part in parts], rtol=0.05)


def test_errors_are_told_by_quarters_of_a_year(twin):
    forcing, runoff, scored = twin
    target = torch.from_numpy(np.where(scored, runoff, np.nan))[:, None]
    p = torch.from_numpy(quick(np.array([[p.default for p in MODEL.parameters]])))
    errors = calibration._square_errors(MODEL, p, torch.from_numpy(forcing)[:, None], target)
    assert errors.shape == (1, 1)
    longer = torch.cat((target, target[LEAD:], target[LEAD:], target[LEAD:]))
    weather = np.concatenate((forcing, *[forcing[LEAD:]] * 3))
    assert calibration._square_errors(MODEL, p, torch.from_numpy(weather)[:, None], longer).shape == (2, 1)


def test_before_the_record_the_seasons_of_its_first_year_are_repeated():
    hours = np.arange(20_000.0)[:, None]
    before = calibration._weather(hours, np.array([-8760, -1, 0, 19_999]))
    assert before[:, 0].tolist() == [0.0, 8759.0, 0.0, 19_999.0]
    assert calibration._weather(hours[:100], np.array([-1, -101]))[:, 0].tolist() == [99.0, 99.0]


@pytest.mark.parametrize("spin_up", [LEAD, 3 * HOURS])
def test_every_hour_counts_once_however_long_the_spin_up(twin, monkeypatch, spin_up):
    forcing, runoff, scored = twin
    monkeypatch.setattr(calibration, "SPIN_UP", spin_up)
    weather, target = calibration._chunks(forcing, np.where(scored, runoff, np.nan), population=96)
    assert torch.isfinite(weather).all()
    assert torch.isnan(target[:spin_up]).all()
    assert np.array_equal(np.sort(target[torch.isfinite(target)]), np.sort(runoff[scored]))
