"""Studies made again: they say what they need, and their parts compute what they say. The data are not bundled."""

import gzip
from dataclasses import replace

import numpy as np
import pytest
import torch

from hydroda import __main__
from hydroda.reproduction.pauwels2013 import figures, in_situ, searches, shares, study, tables
from hydroda.reproduction.pauwels2013.record import FILE, FLOW, MODEL, Record, parameters, read, tuned_size, weather
from hydroda.reproduction.pauwels2013.study import Row
from hydroda.trials import bias_shares

DAYS = 800


@pytest.fixture(scope="module")
def record() -> Record:
    """Made-up days: rain on one in three, a summer that evaporates, and the discharge the model makes of them."""
    random = np.random.default_rng(4)
    day = np.datetime64("2009-01-01") + np.arange(DAYS)
    rain = random.gamma(0.7, 9.0, DAYS) * (random.random(DAYS) < 0.35)
    pet = 1.5 + 1.4 * np.sin(2 * np.pi * (np.arange(DAYS) - 100) / 365.25)
    forcing = torch.from_numpy(np.column_stack((rain, pet)) / 24.0)
    x, flow = study.spun_up(Record(day, forcing, np.zeros(DAYS)), MODEL.defaults), []
    for u in forcing:
        x = MODEL.step(x, u.reshape(1, 1, -1), MODEL.defaults)
        flow.append(float(MODEL.discharge(x, MODEL.defaults)))
    observed = np.array(flow) * np.exp(0.2 * random.standard_normal(DAYS))
    observed[50:60] = np.nan
    return Record(day, forcing, observed)


def test_the_record_is_read_in_millimetres_an_hour(tmp_path):
    (tmp_path / FILE.parent).mkdir()
    with gzip.open(tmp_path / FILE, "wt") as file:
        file.write("time,precipitation_mm_per_day,pet,discharge\n2009-01-01,2.4,0.48,0.7\n2009-01-02,0.0,1.2,\n")
    found = read(tmp_path)
    assert found.forcing.numpy() == pytest.approx(np.array([[0.1, 0.02], [0.0, 0.05]]))
    assert found.observed[0] == pytest.approx(0.7 * 3.6 / 114.3) and np.isnan(found.observed[1])
    assert len(found.part("2009-01-02", "2010-01-01").day) == 1


def test_without_the_data_it_says_what_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYDRODA_REAL_DATA", str(tmp_path / "nowhere"))
    assert __main__.main(["reproduce", "pauwels2013", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "zwalm_daily.csv.gz is not there" in said and "HYDRODA_REAL_DATA" in said
    assert not (tmp_path / "out").exists()


def test_perturbed_weather_is_right_on_average_and_dry_days_stay_dry(record):
    rain = weather(record, 0.4)
    assert rain.shape == (DAYS, 32, 2) and (rain >= 0).all()
    assert ((rain == 0).all(1) == (record.forcing == 0)).all()
    assert abs(float(rain.mean() / record.forcing.mean()) - 1) < 0.03
    assert torch.equal(weather(replace(record, day=record.day[:9], forcing=record.forcing[:9]), 0.4), rain[:9])
    assert abs(float((parameters(0.4) / MODEL.defaults).log().std()) - 0.1) < 0.02


def test_truth_and_observations_are_the_model_with_the_biases_of_the_paper(record):
    rows = [Row(e, kind) for kind in (False, True) for e in (1, 2, 3)]
    world = study.world(record, rows)
    shift = world.storages - world.storages[:, :1]
    assert shift[:, 1].allclose(study.STORAGE_BIAS) and not shift[:, 3].any()
    assert shift[:, 4].amax(0).allclose(study.STORAGE_BIAS + study.STORAGE_SWING, rtol=1e-3)
    assert (world.gauge_bias[:, 0] / FLOW).allclose(torch.tensor(0.5, dtype=torch.float64))
    assert not world.gauge_bias[:, [2, 5]].any()
    seen = torch.isfinite(world.observation)
    assert seen[:, 0].sum() == DAYS // 7 and seen[6::7].all()
    noise = (world.observation - world.discharge - world.gauge_bias)[seen.all(1)] / FLOW
    assert abs(float(noise.std()) - 0.1) < 0.02 and torch.equal(noise[:, 0] > 0, noise[:, 5] > 0)


def test_rows_differ_by_what_they_assume_and_not_by_chance(record):
    rows = [Row(2, False, open_loop=True), Row(2, False), Row(2, False, 0.7, 1.0), Row(2, False, 0.7, 0.0)]
    observation = study.world(record, rows).observation
    together = study.run(record, rows, observation, 0.3)
    alone = study.run(record, rows[2:3], observation[:, 2:3], 0.3)
    for part in ("storages", "discharge", "bias", "gauge"):
        assert getattr(together, part)[:, 2:3].allclose(getattr(alone, part), rtol=1e-9)
    assert not together.bias[:, :2].any() and not together.gauge[:, [0, 1, 3]].any() and together.gauge[-1, 2] > 0
    assert not torch.isfinite(together.innovation[:, 0]).any()


def test_shares_are_judged_by_mean_whiteness_and_steadiness():
    random = np.random.default_rng(1)
    white = random.standard_normal(4000)
    red = np.array([white[i] + 0.9 * white[i - 1] for i in range(4000)])
    innovation = np.column_stack((white, white + 0.5, red, white))
    gauge = np.column_stack((np.zeros((4000, 3)), 2.0 * white))
    bias = np.zeros((4000, 4, 2))
    bias[:, 1, 1] = 1.5
    stores = np.broadcast_to(red[:, None, None], bias.shape)
    found = bias_shares.judged(innovation, innovation, gauge, bias, stores)
    assert np.abs(found.mean - [0, 0.5, 0, 0]).max() < 0.06
    assert found.whiteness[2] > 0.2 and found.whiteness[[0, 1, 3]].max() < 0.04
    assert found.gauge == pytest.approx([0, 0, 0, 2.0])
    assert found.stores == pytest.approx([0, 1.5 / red.std(), 0, 0])
    assert found.loss == pytest.approx(sum(part**2 for part in found[:4])) and np.argmin(found.loss) == 0


def test_every_search_finds_a_bowl(monkeypatch):
    aim = np.linspace(0.3, 0.7, len(searches.TABLE))
    for name, search in searches.SEARCHES.items():
        tried = []

        def loss(z, tried=tried):
            tried.append(np.square(z - aim).sum(1))
            return tried[-1]

        try:
            search(loss, 60, 40, 1)
        except ImportError:
            pytest.skip(f"{name} is not installed")
        assert len(tried) == 60 and min(map(min, tried)) < 0.02, name


def test_what_a_search_found_has_the_loss_it_says(record):
    judge = searches.loss_of(record)
    for name, found in searches.compared(record, generations=5, population=15).items():
        if found.problem:  # a search of a package that is not installed
            assert "not installed" in found.problem or "No module" in found.problem, (name, found.problem)
            continue
        assert judge(found.parameters[0].numpy())[0] == pytest.approx(found.loss), name
        assert found.best[-1] == found.loss <= found.best[0] and found.runs[-1] == 75, name


def test_the_loss_is_one_for_the_mean_and_hopeless_for_an_unstable_step(record):
    loss = searches.loss_of(record)
    values = np.array([[p.default for p in searches.TABLE]] * 2)
    values[1, 7] *= 3.0
    good, unstable = loss(values)
    assert 0.0 < good < 0.5 and unstable == searches.HOPELESS


def test_tables_and_pictures_of_the_river(record):
    size, ratio = tuned_size(record, MODEL.defaults)
    assert 0.05 < size < 0.8 and ratio > 0
    judged, run = in_situ.validated(record, Row(2, False, 0.7, 1.0), 0.3, MODEL.defaults)
    assert [each.name for each in judged][:2] == ["open loop", "EnKF"]
    assert judged[1].rmse < judged[0].rmse * 1.1 and judged[0].gauge == 0
    assert "| EnKF | 1 | 0 |" in tables.in_situ(judged)
    assert figures.in_situ(record.day, record.observed, [each.name for each in judged], run).axes


def test_directions_are_said_sign_by_sign():
    best = Row(2, False, 0.7, 1.0)
    worse, better = np.full(5, 10.0), np.array([1.0, -5.0, -5.0, -5.0, -5.0])
    changes = {Row(e, False): worse for e in (1, 2, 3)} | {best._replace(experiment=e): better for e in (1, 2, 3)}
    changes |= {best._replace(kappa=0.0): worse}
    told = tables.directions(changes, best)
    assert told.count("- holds") == len(told.splitlines()) == 18
    changes[best._replace(experiment=3)] = np.array([1.0, -5.0, 20.0, -5.0, -5.0])
    assert "DOES NOT HOLD: experiment 3, S2: bias-aware better" in tables.directions(changes, best)
    assert "| | paper | +394.8 → -82.0 |" in tables.table3(changes, best).replace("|  |", "| |")


def test_a_scan_takes_the_pair_of_least_loss(record, monkeypatch):
    monkeypatch.setattr(shares, "GAMMAS", (1.0, 0.5))
    monkeypatch.setattr(shares, "KAPPAS", (0.0, 1.0))
    observed = study.world(record, [Row(2, False)]).observation
    found = shares.scan(record, observed, 0.3)
    assert len(found.rows) == 4 and np.isfinite(found.judged.loss).all()
    assert found.best[2:4] == (0.5, 1.0)  # the only pair of both biases
    assert tables.shares(found).count("\n") >= 6
