"""The flows, really run by Prefect, over steps that only note how they are called."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import numpy as np
import pytest
from conftest import FIRST

from flows.backfill import backfill, months
from flows.hourly import cycle_of, hourly
from flows.ingest import ingest, mendable
from flows.train import train
from flows.verify import verify
from hydroda import steps
from hydroda.publishing.acceptance import check
from hydroda.settings_file import parse
from hydroda.storage import netcdf
from hydroda.storage.lock import Busy
from hydroda.storage.record_files import Counts
from hydroda.units import iso

SIX = np.datetime64("2003-07-01T06", "ns")
HOUR = np.timedelta64(1, "h")
SMALL = '[deployment]\ndomain = "alps"\n' + "".join(
    f"[[catchment]]\nid='{i}'\narea_km2=2.0\n" for i in ("ach", "bregenz")
)


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    """One temporary Prefect server, with a home of its own, for all tests here."""
    from prefect.settings import PREFECT_HOME, temporary_settings  # after flows, which makes Prefect's settings
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    with temporary_settings({PREFECT_HOME: home}), prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def did(monkeypatch, tmp_path):
    """Steps with their real signatures that do nothing but note their calls, and a settings file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hydroda.toml").write_text(SMALL)
    stand_ins = SimpleNamespace()
    for name in ("ingest", "missed", "run", "hindcast", "verify", "calibrate", "train", "score_table"):
        setattr(stand_ins, name, create_autospec(getattr(steps, name)))
        monkeypatch.setattr(steps, name, getattr(stand_ins, name))
    stand_ins.run.side_effect = lambda settings, cycle, **_: ended("published")
    stand_ins.missed.return_value = []
    stand_ins.verify.return_value = Path("scores.nc")
    stand_ins.score_table.return_value = "lead 1 0.98"
    return stand_ins


def ended(state: str, message: str = "") -> SimpleNamespace:
    return SimpleNamespace(state=state, files=(Path("fc.nc"),), message=message)


def sources(tmp_path: Path, *names: str) -> None:
    kinds = "".join(f"[[source]]\nname='{name}'\nkind='csv_folder'\nfolder='in'\n" for name in names)
    (tmp_path / "hydroda.toml").write_text(SMALL + kinds)


def test_hourly_publishes_and_verifies(did):
    state = hourly(cycle="2003-07-01T06", return_state=True)
    assert (state.name, state.is_completed()) == ("Published", True)
    assert "fc.nc" in state.message
    assert [call.args[1] for call in did.run.call_args_list] == [SIX]
    assert did.verify.call_args.args[1:] == (SIX - np.timedelta64(7, "D"), SIX)
    assert did.verify.call_args.kwargs == {"kind": "operational"}


def test_hourly_makes_good_what_was_missed_and_forces_only_its_own_cycle(did):
    did.missed.return_value = [SIX - 2 * HOUR, SIX - HOUR]
    hourly(cycle="2003-07-01T06", force=True)
    assert [(call.args[1], call.kwargs) for call in did.run.call_args_list] == [
        (SIX - 2 * HOUR, {"force": False, "catch_up": True}),
        (SIX - HOUR, {"force": False, "catch_up": True}),
        (SIX, {"force": True, "catch_up": False}),
    ]


def test_a_missed_cycle_that_fails_does_not_cost_the_current_one(did):
    did.missed.return_value = [SIX - HOUR]
    did.run.side_effect = [ValueError("ach 2003-07-01T05:00Z: not finite"), ended("degraded", "no forcing")]
    state = hourly(cycle="2003-07-01T06", return_state=True)
    assert (state.name, state.is_completed()) == ("Degraded", True)


def test_a_failed_cycle_is_red_says_why_and_is_not_repeated(did):
    did.run.side_effect = ValueError("ach 2003-07-01T06:00Z: not finite")
    state = hourly(cycle="2003-07-01T06", return_state=True)
    assert state.is_failed()
    assert "ach 2003-07-01T06:00Z: not finite" in state.message
    assert did.run.call_count == 1
    did.run.side_effect = [ended("failed", "disk full")]
    state = hourly(cycle="2003-07-01T06", return_state=True)
    assert state.is_failed()
    assert "disk full" in state.message


def test_a_second_writer_leaves_in_green(did):
    did.run.side_effect = Busy(Path(".writer.lock"), "host h pid 3")
    state = hourly(cycle="2003-07-01T06", return_state=True)
    assert (state.name, state.is_completed(), "host h pid 3" in state.message) == ("Skipped", True, True)
    did.verify.assert_not_called()


def test_scores_that_cannot_be_made_do_not_cost_the_forecast(did):
    did.verify.side_effect = ValueError("nothing to verify yet")
    assert hourly(cycle="2003-07-01T06", return_state=True).name == "Published"


def test_the_cycle_follows_the_schedule_not_the_clock(monkeypatch):
    settings = parse(SMALL)
    for scheduled, cycle in (("06:10:00", "06"), ("06:09:59", "05"), ("06:59:00", "06")):
        start = f"2003-07-01 {scheduled}.000000+00:00"
        monkeypatch.setattr("prefect.runtime.flow_run.scheduled_start_time", start, raising=False)
        assert cycle_of(settings, None) == np.datetime64(f"2003-07-01T{cycle}", "ns")
    assert cycle_of(settings, "2003-07-01T06:00Z") == SIX
    with pytest.raises(ValueError, match="06:30 is not a full hour; the nearest cycle before it is 2003-07-01T06:00Z"):
        cycle_of(settings, "2003-07-01T06:30")


def test_a_cycle_that_failed_is_not_scored(did):
    did.run.side_effect = lambda settings, cycle, **_: ended("failed", "ach is not calibrated")
    assert hourly(cycle="2003-07-01T06", return_state=True).is_failed()
    assert not did.verify.called


def test_a_period_does_not_end_before_it_starts(did):
    state = backfill("2003-03-20", "2003-03-10", return_state=True)
    assert state.is_failed() and "ends (2003-03-10T00:00Z) before it starts" in state.message
    assert not did.hindcast.called


def test_one_source_down_does_not_stop_the_others_or_the_cycle(did, tmp_path):
    sources(tmp_path, "a", "b")
    did.ingest.side_effect = lambda settings, source: 1 / 0 if source == "a" else Counts(received=3)
    assert hourly(cycle="2003-07-01T06", return_state=True).name == "Published"
    assert [call.args[1] for call in did.ingest.call_args_list] == ["a", "b"]
    assert ingest(return_state=True).is_completed()
    did.ingest.side_effect = ValueError("field 'q' is gone")
    state = ingest(return_state=True)
    assert state.is_failed()
    assert "a, b" in state.message


@pytest.mark.parametrize(
    ("error", "again"),
    [(ConnectionResetError(), True), (TimeoutError(), True), (OSError("disk full"), False), (ValueError("x"), False)],
)
def test_only_a_connection_is_tried_again(error, again):
    from prefect.states import Failed

    assert mendable(None, None, Failed(data=error)) is again


def test_backfill_goes_month_by_month_in_order(did):
    did.hindcast.side_effect = lambda settings, start, end, forcing, products: [Path(f"{start:.7}.nc")]
    state = backfill("2003-01-15", "2003-03-01T05", forcing="none", return_state=True)
    assert [(str(c.args[1])[:13], str(c.args[2])[:13]) for c in did.hindcast.call_args_list] == [
        ("2003-01-15T00", "2003-01-31T23"),
        ("2003-02-01T00", "2003-02-28T23"),
        ("2003-03-01T00", "2003-03-01T05"),
    ]
    assert did.hindcast.call_args.kwargs == {"forcing": "none", "products": False}
    assert state.message == "2003-01.nc 2003-02.nc 2003-03.nc"
    did.hindcast.side_effect = Busy(Path(".writer.lock"), "host h pid 3")
    assert backfill("2003-01-15", "2003-01-16", return_state=True).name == "Skipped"


@pytest.mark.parametrize(("start", "end"), [("2003-12-31T23", "2004-01-01T00"), ("2004-02-01", "2004-03-31T23")])
def test_months_cover_every_hour_once(start, end):
    first, last = np.datetime64(start, "ns"), np.datetime64(end, "ns")
    chunks = months(first, last)
    hours = np.concatenate([np.arange(a, b + HOUR, HOUR) for a, b in chunks])
    assert (hours == np.arange(first, last + HOUR, HOUR)).all()
    assert all(a.astype("datetime64[M]") == b.astype("datetime64[M]") for a, b in chunks)


def test_verify_scores_a_period_or_the_last_days(did):
    state = verify("2003-01-01", "2003-02-01", kind="hindcast", return_state=True)
    assert state.message == "scores.nc"
    assert [str(t)[:10] for t in did.verify.call_args.args[1:]] == ["2003-01-01", "2003-02-01"]
    assert did.verify.call_args.kwargs == {"kind": "hindcast"}
    verify()
    first, last = did.verify.call_args.args[1:]
    assert last - first == np.timedelta64(30, "D")
    assert last == last.astype("datetime64[h]")


def test_train_goes_on_past_a_catchment_without_data(did):
    did.calibrate.side_effect = [
        ValueError("ach: 10 h of data, 8760 needed"),
        [SimpleNamespace(summary="NSE 0.8", failed=False)],
    ]
    state = train("1997-01-01", "2002-12-31", return_state=True)
    assert state.is_failed()
    assert state.message.startswith("ach: ") and "10 h of data, 8760 needed" in state.message
    assert [call.args[1] for call in did.calibrate.call_args_list] == [["ach"], ["bregenz"]]


@pytest.mark.parametrize(("together", "lessons"), [(False, [["ach"], ["bregenz"]]), (True, [["ach", "bregenz"]])])
def test_networks_are_trained_for_each_catchment_or_for_all_together(did, together, lessons):
    did.calibrate.return_value = [SimpleNamespace(summary="NSE 0.8", failed=False)]
    did.train.side_effect = lambda settings, ids, *_, **__: [
        SimpleNamespace(summary=i, failed=i == "bregenz") for i in ids
    ]
    state = train("1997-01-01", "2002-12-31", networks=True, together=together, return_state=True)
    assert [call.args[1] for call in did.train.call_args_list] == lessons
    assert all(call.kwargs["together"] == together for call in did.train.call_args_list)
    assert ("ach: " in state.message, "bregenz: " in state.message) == (together, True)


def test_the_flows_really_publish_hindcast_and_score(settings):
    """No stand-ins: Prefect runs the steps on the small deployment."""
    config, cycle = str(settings.file), FIRST
    for i in range(2):
        state = hourly(config, iso(cycle + i * HOUR), return_state=True)
        assert (state.name, state.is_completed()) == ("Degraded", True)  # its settings know no rain forecast
    product = check(netcdf.read(steps.store_of(settings).product_path("fc", cycle + HOUR)))
    assert np.isfinite(product.discharge.values).all()
    done = backfill(iso(cycle), iso(cycle + 5 * HOUR), config, return_state=True)
    assert Path(done.message).exists()
    scored = verify(iso(cycle), iso(cycle + 5 * HOUR), config, kind="hindcast", return_state=True)
    assert netcdf.read(Path(scored.message)).attrs["hydroda_issue_times"] == 6
    again = hourly(config, iso(cycle + HOUR), return_state=True)
    assert again.name == "Skipped"
