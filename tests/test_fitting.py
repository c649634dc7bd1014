"""Which model a catchment is calibrated with, and that catchments of different models are forecast together."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CALIBRATED_UNTIL, EFFORT, FIRST, START

from hydroda import domain, steps
from hydroda.calibrating import calibration, fitting
from hydroda.calibrating.fitting import Fitted
from hydroda.forecast import calibrated, correction, quarters
from hydroda.forecast.calibrated import Calibrated
from hydroda.schema import LEADS
from hydroda.settings import Model
from hydroda.storage import netcdf
from hydroda.units import HOUR

TUNED_FROM, VALIDATION = START + 80 * 24 * HOUR, START + 115 * 24 * HOUR
BOTH = Model(alternatives=("hbv.lagged",))


def fitted(name: str, loss: float) -> Fitted:
    """A model with such a loss."""
    return Fitted(name, None, None, None, loss)


@pytest.mark.parametrize(
    ("losses", "taken"), [([-3.0, -3.1], "b"), ([-3.0, -3.01], "a"), ([-3.0, -3.2, -3.4, -2.0], "c"), ([-3.0], "a")]
)
def test_the_first_model_is_taken_unless_another_is_clearly_better(losses, taken):
    assert fitting._chosen([fitted("abcd"[i], loss) for i, loss in enumerate(losses)]).name == taken


def test_the_loss_is_that_of_the_last_error_carried_on():
    """By hand, from hours apart: an error of one, of which half is left after so many hours."""
    hours = np.datetime64("2003-01-01T00", "ns") + np.arange(200) * HOUR
    observed = np.where(np.arange(200) % 2, 3.0, 2.0)
    record = SimpleNamespace(hours=hours, observed=observed, scored=np.arange(200) >= 20)
    half = correction.Correction((1.0,) * 366, 1 / np.log(2.0), 0.0, 0.0, 0.1, 0.0, 0.0)
    expected = np.log((1 - 0.5**LEADS) ** 2 / 0.25 + quarters.PERFECT).mean()
    assert fitting._carried_on(record, observed - 1.0, half, np.arange(200) >= 100) == pytest.approx(expected)
    record.observed = np.where(np.arange(200) < 150, observed, np.nan)
    assert fitting._carried_on(record, observed - 1.0, half, np.arange(200) >= 100) == pytest.approx(expected)


def test_models_are_tried_by_the_same_search_and_what_became_of_them_is_told(settings, monkeypatch):
    """What the first finds does not depend on there being others, and one that is taken is used from then on."""
    store = domain.store_of(settings)
    monkeypatch.setattr(calibration, "SPIN_UP", 400)

    def calibrate(model: Model) -> tuple[Calibrated, str]:
        own = settings.model_copy(update={"model": model})
        (done,) = steps.calibrate(
            own, ["ach"], TUNED_FROM, CALIBRATED_UNTIL, validation=VALIDATION, effort=EFFORT, progress=told
        )
        assert not done.failed
        return calibrated.restore(store.read_parameters("ach")), done.summary

    seen = []

    def told(fraction, text):
        seen.append((fraction, text))

    monkeypatch.setattr(fitting, "_chosen", lambda tried: tried[0])
    alone, quiet = calibrate(Model())
    first, said = calibrate(BOTH)
    assert first.parameters == alone.parameters and first.errors == alone.errors
    assert "without a filter" not in quiet
    assert "(without a filter hbv.lagged errs" in said
    assert {*first.report["models_tried"]} == {"hbv.hourly", "hbv.lagged"}
    monkeypatch.setattr(fitting, "_chosen", lambda tried: tried[-1])
    seen.clear()
    other, said = calibrate(BOTH)
    assert other.model == "hbv.lagged" and "hbv.lagged with snow alone NSE" in said and "hbv.hourly errs" in said
    assert {"delay", "routing_time"} <= set(other.parameters) and "underway" in other.errors
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert any("hbv.lagged, model" in text for _, text in seen)
    done = steps.run(settings, FIRST)  # beside one of another model
    assert "hbv" not in done.message
    product = netcdf.read(done.files[0])
    assert np.isfinite(product.discharge.values).all()
    assert "model hbv.hourly, hbv.lagged," in product.attrs["source"]


def test_a_station_that_fails_is_named_once(settings):
    (done,) = steps.calibrate(settings, ["ach"], CALIBRATED_UNTIL - 24 * HOUR, CALIBRATED_UNTIL, effort=EFFORT)
    assert done.failed and done.summary.count("ach:") == 1
