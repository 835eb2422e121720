"""`ryot report` draws everything again from results.json, and says what is wrong with a file that it cannot draw."""

import io
import json
import math
import subprocess
import sys

import pytest

from ryot_jax.comparison.results import read, to_text
from ryot_jax.config import get_default, to_json
from ryot_jax.main import main
from ryot_jax.report import files
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import ConfigError


@pytest.fixture
def run(tmp_path, situation):
    """A run directory with a config and results whose verdict is FAIL."""
    folder = tmp_path / "20261124T205807Z-scaled"
    folder.mkdir()
    (folder / "config.json").write_text(to_json(get_default()), encoding="utf-8")
    (folder / "results.json").write_text(to_text(situation("failed")), encoding="utf-8")
    return folder


def _report(*words):
    stream = io.StringIO()
    return main(["report", *words], Console(stream, {})), stream.getvalue()


def test_it_draws_what_the_run_drew_and_ends_with_zero_whatever_the_verdict(run, situation, tmp_path):
    code, said = _report(f"--run={run}")
    assert code == 0
    assert said.startswith("FAIL (speedup_above_zero): optimized is 0.962 times as fast")
    assert said.endswith(f"report: {run / 'report.html'}\nreport: {run / 'report.md'}\n")
    again = tmp_path / "again"
    again.mkdir()
    written = files.write(again, situation("failed"))
    assert len(written) == 11
    for path in written:
        assert (run / path.name).read_bytes() == path.read_bytes()


def test_old_reports_are_replaced_and_the_latest_run_is_the_default(run):
    (run / "report.html").write_text("old", encoding="utf-8")
    assert _report(f"--workdir={run.parent}")[0] == 0
    assert "scaled: FAIL" in (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def ablated(tmp_path, situation):
    """A run directory as `ryot ablate` leaves it."""
    folder = tmp_path / "20261124T215807Z-scaled-ablate"
    folder.mkdir()
    (folder / "config.json").write_text(to_json(get_default()), encoding="utf-8")
    document = {"attribution": situation("ablated").attribution}
    (folder / "attribution.json").write_text(to_text(document), encoding="utf-8")
    return folder


def test_an_attribution_becomes_part_of_the_results_and_of_the_report(run, ablated, situation):
    assert 'id="attribution"' not in (_report(f"--run={run}") and (run / "report.html").read_text(encoding="utf-8"))
    assert _report(f"--run={run}", f"--attribution={ablated}")[0] == 0
    assert read(run / "results.json").attribution == situation("ablated").attribution
    assert 'id="attribution"' in (run / "report.html").read_text(encoding="utf-8")
    assert _report(f"--run={run}")[0] == 0
    assert 'id="attribution"' in (run / "report.html").read_text(encoding="utf-8")


def test_an_attribution_of_another_step_is_refused(run, ablated):
    config = get_default()
    config.model.d_model = 256
    config.comparison.pairs = 3  # which a step knows nothing of
    (ablated / "config.json").write_text(to_json(config), encoding="utf-8")
    before = (run / "results.json").read_bytes()
    with pytest.raises(ConfigError, match=r"model\.d_model: 128 here, 256 there") as error:
        _report(f"--run={run}", f"--attribution={ablated}")
    assert "pairs" not in str(error.value)
    assert (run / "results.json").read_bytes() == before


def test_an_attribution_that_is_not_there_or_damaged_is_named(run, ablated):
    with pytest.raises(ConfigError, match=r"there is no attribution\.json"):
        _report(f"--run={run}", f"--attribution={run}")
    (ablated / "attribution.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"attribution\.json is damaged"):
        _report(f"--run={run}", f"--attribution={ablated}")


def _without(key):
    def change(results):
        del results[key]

    return change


def _set(key, value):
    def change(results):
        results[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("criteria"), "is damaged: not a results file of this program: results.criteria is missing"),
        (_set("verdict", "MAYBE"), "verdict 'MAYBE' is none of PASS, FAIL, INCONCLUSIVE"),
        (_set("schema_version", 1), "is of version 1, and this program draws versions 2 and 3"),
        (_set("schema_version", 4), "is of version 4, and this program draws versions 2 and 3"),
        (_set("roofline", {"peaks": {}, "arms": {"baseline": {}}}), "is damaged"),
        (_set("arms", {}), "is damaged"),
        (
            lambda results: results["arms"]["baseline"].update(steps=1.5),
            "results.arms.baseline.steps is float, not int",
        ),
        (lambda results: results["controls"].update(seconds=math.nan), "NaN is no number of JSON"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_with_its_name_and_a_remedy(run, change, message):
    path = run / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    change(results)
    path.write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        _report(f"--run={run}")
    assert str(path) in str(caught.value) and message in str(caught.value) and caught.value.exit_code == 2
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '"x"', '{"schema_version": NaN}', "[" * 100_000, '{"schema_version": true}'],
)
def test_what_is_no_results_file_at_all_is_called_damaged(run, content):
    (run / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="damaged"):
        read(run / "results.json")


def test_what_is_not_utf8_is_called_damaged(run):
    (run / "results.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="damaged"):
        read(run / "results.json")


def test_a_run_that_is_not_finished_is_told_how_to_go_on(run):
    (run / "results.json").unlink()
    with pytest.raises(ConfigError, match=r"results\.json does not exist: the run is not finished; .*--resume="):
        _report(f"--run={run}")


def test_a_directory_that_cannot_be_written_is_named(run):
    (run / "report.html").mkdir()
    with pytest.raises(ConfigError, match="the report cannot be written there"):
        _report(f"--run={run}")


def test_the_program_ends_with_code_two_and_one_line(run):
    (run / "results.json").write_text('{"schema_version": 1}', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "ryot_jax.main", "report", f"--run={run}"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
