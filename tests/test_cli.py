"""The command line: what each command asks of the steps, what it prints, and its exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import numpy as np
import pytest

from hydroda import steps
from hydroda.__main__ import main
from hydroda.commands.console import progress
from hydroda.settings_file import SettingsError
from hydroda.storage.lock import Busy
from hydroda.storage.record_files import Counts

SMALL = '[deployment]\ndomain = "alps"\n[[catchment]]\nid = "ach"\narea_km2 = 2.0\n'
NAMES = (
    "init",
    "add_catchment",
    "check",
    "ingest",
    "missed",
    "run",
    "hindcast",
    "verify",
    "calibrate",
    "train",
    "report",
)
SIX = np.datetime64("2003-07-01T06", "ns")
HOUR = np.timedelta64(1, "h")


@pytest.fixture
def did(monkeypatch, tmp_path):
    """Steps that only note how they are called (with the real signatures), and a settings file where we stand."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hydroda.toml").write_text(SMALL)
    stand_ins = SimpleNamespace()
    for name in (*NAMES, "score_table", "score_json", "skill_figure"):
        setattr(stand_ins, name, create_autospec(getattr(steps, name)))
        monkeypatch.setattr(steps, name, getattr(stand_ins, name))
    stand_ins.run.side_effect = lambda settings, cycle, **_: result("published", cycle=cycle)
    return stand_ins


def result(state: str, message: str = "", cycle: np.datetime64 = SIX) -> SimpleNamespace:
    return SimpleNamespace(cycle=cycle, state=state, files=(Path("fc.nc"),), message=message)


def cycles(did) -> list[np.datetime64]:
    return [call.args[1] for call in did.run.call_args_list]


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from hydroda.__main__ import main\n"
        "assert main(['--help']) == 0\n"
        "print(sorted({'torch', 'prefect', 'xarray', 'netCDF4', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, loaded = done.stdout.splitlines()
    assert "hydroda add-catchment dornbirn" in "\n".join(text)
    assert loaded == "[]"


def test_every_command_is_documented_with_an_example(capsys):
    for command in ("init", "add-catchment", "check", "calibrate", "run", "hindcast", "verify", "report"):
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"Example: hydroda {command}" in text
        assert "Exit codes: 0 done" in text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hydroda ")


def test_init_needs_no_settings(did, tmp_path, capsys):
    did.init.return_value = Path("new/hydroda.toml")
    assert main(["init", "new"]) == 0
    did.init.assert_called_once_with(Path("new"))
    assert "new/hydroda.toml" in capsys.readouterr().out


def test_add_catchment_passes_everything(did, tmp_path, capsys):
    did.add_catchment.return_value = Counts(received=4, new=3, rejected=1, problems=("line 4: 'x' is not a number",))
    assert main(["add-catchment", "ach", "x.csv", "--area-km2", "3.5", "--lat", "-4", "--name", "The Ach"]) == 0
    did.add_catchment.assert_called_once_with(
        tmp_path / "hydroda.toml", "ach", Path("x.csv"), 3.5, lat=-4.0, lon=None, elevation=None, name="The Ach"
    )
    assert capsys.readouterr().out == "ach: 4 received, 3 new, 1 rejected\n  line 4: 'x' is not a number\n"


def test_run_of_one_cycle_takes_that_cycle_only(did, capsys):
    assert main(["run", "--cycle", "2003-07-01T06", "--force"]) == 0
    assert cycles(did) == [SIX]
    assert did.run.call_args.kwargs == {"force": True, "catch_up": False}
    did.missed.assert_not_called()
    assert capsys.readouterr().out == "2003-07-01T06:00Z published\n  fc.nc\n"


def test_run_fetches_catches_up_and_makes_this_hour(did, tmp_path, monkeypatch, capsys):
    settings = (
        SMALL
        + "[[source]]\nname='a'\nkind='csv_folder'\nfolder='in'\n[[source]]\nname='b'\nkind='csv_folder'\nfolder='in'\n"
    )
    (tmp_path / "hydroda.toml").write_text(settings)
    monkeypatch.setattr("hydroda.units.utc_now", lambda: np.datetime64("2003-07-01T07:09:59", "ns"))
    did.ingest.side_effect = [OSError("no route to host"), Counts(received=3, new=3)]
    did.missed.return_value = [SIX - 2 * HOUR, SIX - HOUR]
    assert main(["run"]) == 0
    assert [call.args[1] for call in did.ingest.call_args_list] == ["a", "b"]
    assert did.missed.call_args.args[1] == SIX
    assert cycles(did) == [SIX - 2 * HOUR, SIX - HOUR, SIX]
    out, err = capsys.readouterr()
    assert "source a failed, going on without it: no route to host" in err
    assert "b: 3 received, 3 new" in out


def test_a_missed_cycle_that_fails_does_not_cost_the_one_of_this_hour_but_the_lock_of_another_run_ends_all(
    did, monkeypatch, capsys
):
    monkeypatch.setattr("hydroda.units.utc_now", lambda: np.datetime64("2003-07-01T06:30", "ns"))
    did.missed.return_value = [SIX - HOUR]
    did.run.side_effect = [ValueError("disk full"), result("published")]
    assert main(["run"]) == 1
    assert cycles(did) == [SIX - HOUR, SIX]
    assert "2003-07-01T05:00Z failed: disk full" in capsys.readouterr().err
    did.run.reset_mock()
    did.run.side_effect = Busy(Path("writer.lock"), "pid 1")
    assert main(["run"]) == 4
    assert cycles(did) == [SIX - HOUR]


@pytest.mark.parametrize(("state", "code"), [("published", 0), ("degraded", 0), ("skipped", 0), ("failed", 1)])
def test_exit_code_of_a_run(did, state, code, capsys):
    did.run.side_effect = None
    did.run.return_value = result(state, "because")
    assert main(["run", "--cycle", "2003-07-01T06"]) == code
    assert f"{state} because" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            Busy(Path(".writer.lock"), "host h pid 3"),
            4,
            "held by host h pid 3; wait for it to finish, or end it if it should not be there\nAnother run is writing",
        ),
        (SettingsError(Path("x.toml"), [(3, "bad")]), 3, "x.toml, line 3: bad"),
        (OSError("disk full"), 1, "hydroda run: disk full"),
        (KeyError("no 'x'; there are: y"), 1, "hydroda run: no 'x'; there are: y"),
        (TypeError("None + 1"), 1, "unexpected TypeError: None + 1"),
    ],
)
def test_errors_become_messages(did, error, code, said, capsys):
    did.run.side_effect = error
    assert main(["run", "--cycle", "2003-07-01T06"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert main(["run", "--cycle", "2003-07-01T06", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_ends_in_words(did, capsys):
    did.report.side_effect = KeyboardInterrupt
    assert main(["report"]) == 130
    assert "stopped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum"], 'Did you mean "run"?'),
        (["run", "--cycel", "x"], "Did you mean --cycle?"),
        (["run", "--cycle", "yesterday"], "'yesterday' is not a time"),
        (["run", "--cycle", "2003-07-01T06:30"], "not a full hour; the nearest cycle before it is 2003-07-01T06:00Z"),
        (["hindcast", "2003-02-01", "2003-01-01"], "ends (2003-01-01) before it starts"),
        (["hindcast", "2003-01-01", "2003-02-01", "--forcing", "perfect"], "observed"),
        (["add-catchment", "ach", "x.csv"], "--area-km2"),
        (["train", "--start", "2003-01-01", "--end", "2002-01-01"], "starts before it ends"),
        (["train", "--together", "--unseen", "ach"], "no catchment to train on"),
        (["train", "--unseen", "ach"], "--unseen is for networks that are trained --together"),
    ],
)
def test_wrong_usage(did, arguments, said, capsys):
    assert main(arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    for name in NAMES:
        getattr(did, name).assert_not_called()


def test_wrong_settings_touch_nothing(did, tmp_path, capsys):
    (tmp_path / "hydroda.toml").write_text(SMALL + "lat = 95\n")
    assert main(["run"]) == 3
    assert "line 6: catchment[0].lat: must be less than or equal to 90" in capsys.readouterr().err
    did.run.assert_not_called()


def test_settings_are_found_above_and_by_name(did, tmp_path, monkeypatch):
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert main(["report"]) == 0
    assert did.report.call_args.args[0].file == tmp_path / "hydroda.toml"
    (below / "other.toml").write_text(SMALL.replace("alps", "other"))
    assert main(["report", "--config", "other.toml"]) == 0
    assert did.report.call_args.args[0].deployment.domain == "other"


def test_check_says_what_and_what_to_do(did, capsys):
    did.check.return_value = [
        SimpleNamespace(level="ok", what="settings", remedy=""),
        SimpleNamespace(level="warning", what="ach: 3 h old", remedy="wait"),
    ]
    assert main(["check"]) == 0
    did.check.return_value.append(SimpleNamespace(level="error", what="no data", remedy="hydroda add-catchment"))
    assert main(["check"]) == 1
    assert "error   no data\n        -> hydroda add-catchment" in capsys.readouterr().out


def test_calibrate_takes_all_or_the_named(did, capsys):
    did.calibrate.return_value = [SimpleNamespace(summary="ach: NSE 0.8", failed=False)]
    assert main(["calibrate", "--start", "1997-01-01", "--end", "2002-12-31"]) == 0
    assert did.calibrate.call_args.args[1] == ["ach"]
    assert "NSE 0.8" in capsys.readouterr().out
    did.calibrate.return_value.append(SimpleNamespace(summary="bregenz: not calibrated: 10 hours", failed=True))
    assert main(["calibrate", "--start", "1997-01-01", "--end", "2002-12-31"]) == 1
    did.calibrate.reset_mock()
    assert main(["calibrate", "och", "--start", "1997-01-01", "--end", "2002-12-31"]) == 1
    assert "'och' is not in" in capsys.readouterr().err
    did.calibrate.assert_not_called()


def test_train_passes_what_it_is_told_and_takes_the_times_of_calibration_otherwise(did, tmp_path):
    (tmp_path / "hydroda.toml").write_text(SMALL + '[[catchment]]\nid = "bregenz"\narea_km2 = 3.0\n')
    did.train.return_value = [SimpleNamespace(summary="ach: …", failed=False)]
    assert main(["train"]) == 0
    assert did.train.call_args.args[1:] == (["ach", "bregenz"], None, None)
    assert main(["train", "--together", "--unseen", "bregenz", "--start", "2003-07-01"]) == 0
    assert did.train.call_args.args[1:] == (["ach"], np.datetime64("2003-07-01", "ns"), None)
    assert did.train.call_args.kwargs["unseen"] == ["bregenz"] and did.train.call_args.kwargs["together"]
    did.train.reset_mock()
    assert main(["train", "--together", "--unseen", "och"]) == 1
    did.train.assert_not_called()


def test_hindcast_reports_progress_sparsely_without_a_terminal(did, capsys):
    def hindcast(settings, start, end, *, forcing, products, progress):
        for i in range(101):
            progress(i / 100, f"hour {i}")
        return [Path("a.nc")]

    did.hindcast.side_effect = hindcast
    assert main(["hindcast", "2003-01-01", "2003-02-01", "--forcing", "none", "--products"]) == 0
    out, err = capsys.readouterr()
    assert out == "a.nc\n"
    assert len(err.splitlines()) == 10
    assert err.splitlines()[-1] == "hindcast: 100 % hour 100"


def test_progress_on_a_terminal_is_a_bar_on_stderr(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("fit") as report:
        report(0.5, "ach")
    out, err = capsys.readouterr()
    assert out == ""
    assert "fit: ach" in err


def test_verify_prints_the_table_and_writes_json(did, tmp_path, capsys):
    did.verify.return_value = Path("scores.nc")
    did.score_table.return_value = "lead 1  0.98"
    did.score_json.return_value = {"nse": 0.98}
    assert main(["verify", "2003-01-01", "2003-02-01", "--json", "s.json", "--all-leads"]) == 0
    assert "lead 1  0.98" in capsys.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text()) == {"nse": 0.98}
    did.score_table.assert_called_once_with(Path("scores.nc"), all_leads=True)
    assert did.verify.call_args.kwargs == {"kind": "hindcast", "forcing": None}


def test_the_installed_command_returns_the_code(tmp_path):
    environment = os.environ | {"COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "hydroda", "check"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 3
    assert done.stderr.startswith("hydroda check: ")
    assert "hydroda init" in done.stderr
