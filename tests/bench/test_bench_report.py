"""bench/: medians, ratios, the tables and the plot."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import plot
import pytest
import report

RESULTS = {
    "plain GET": {
        "primary": "cpu",
        "unit": "request",
        "servers": {
            "thestral": [{"cpu": 10.0, "rate": 9000.0}, {"cpu": 20.0, "rate": 5000.0}],
            "uvicorn": [{"cpu": 30.0, "rate": 3000.0}, {"cpu": 40.0, "rate": 2000.0}],
            "socketify": "failed: answers b'?'",
        },
    },
    "16 MB upload": {
        "primary": "rate",
        "unit": "MB",
        "servers": {"thestral": [{"rate": 1234.0}], "uvicorn": [{"rate": 617.0}]},
    },
}
REPORT = {
    "versions": {"python": "3.12.1", "uvloop": "0.23.0"},
    "note": "",
    "rounds": 2,
    "seconds": 1,
    "results": RESULTS,
}


def test_ratio_is_the_median_of_neighbours_in_time():
    servers = RESULTS["plain GET"]["servers"]
    assert report.ratio(servers["thestral"], servers["uvicorn"], "cpu") == 2.5  # of 3 and 2


def test_ratio_of_a_rate_is_better_when_it_is_more():
    servers = RESULTS["16 MB upload"]["servers"]
    assert report.ratio(servers["thestral"], servers["uvicorn"], "rate") == 2


@pytest.mark.parametrize(("one", "other"), [(0.0, 1.7), (1.7, 0.0)])
def test_nothing_is_divided_by_nothing(one, other):
    assert report.ratio([{"idle_cpu": one}], [{"idle_cpu": other}], "idle_cpu") is None


def test_rounds_that_one_server_failed_in_do_not_count():
    base = [{"cpu": 30.0}]
    assert report.ratio([{"cpu": 10.0}, {"cpu": 1.0}], base, "cpu") == 3


def test_detail_has_medians_units_and_reasons():
    lines = report.detail("plain GET", RESULTS["plain GET"]).splitlines()
    assert lines[2] == "| server | times uvicorn | CPU µs/request | requests/s |"
    assert "| thestral | 2.50 | **15.0** | 7,000 |" in lines
    assert "| uvicorn | 1.00 | **35.0** | 2,500 |" in lines
    assert "| socketify | – |  |  |" in lines
    assert lines[-1] == "– socketify failed: answers b'?'."


def test_a_turn_that_was_taken_twice_is_told():
    result = RESULTS["plain GET"] | {"again": {"uvicorn": "nothing was answered"}}
    last = report.detail("plain GET", result).splitlines()[-1]
    assert last == "uvicorn failed once and was tried again: nothing was answered."


def test_megabytes_have_no_plural():
    assert "| MB/s |" in report.detail("16 MB upload", RESULTS["16 MB upload"])


def test_summary_has_a_column_for_each_server():
    lines = report.summary(RESULTS, ["thestral", "uvicorn", "socketify"]).splitlines()
    assert lines[2:] == [
        "| plain GET | 2.50 | 1.00 | – |",
        "| 16 MB upload | 2.00 | 1.00 | – |",
    ]


def test_no_ratio_without_uvicorn():
    result = {"primary": "cpu", "unit": "request", "servers": {"thestral": [{"cpu": 1.0}]}}
    assert report.ratios(result) == {}
    assert "| thestral | – | **1.0** |" in report.detail("plain GET", result)


def test_everything_is_written(tmp_path):
    report.write(REPORT, tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert "2 interleaved rounds of 1 s. python 3.12.1, uvloop 0.23.0." in text
    assert "### 16 MB upload" in text
    assert report.json.loads((tmp_path / "results.json").read_text()) == REPORT


def test_plot_is_xml_with_a_dot_for_each_ratio():
    root = ElementTree.fromstring(plot.svg(REPORT))
    space = "{http://www.w3.org/2000/svg}"
    dots = {dot[0].text: float(dot.get("cx")) for dot in root.iter(f"{space}circle") if len(dot)}
    assert set(dots) == {"thestral 2.50", "thestral 2.00", "uvicorn 1.00"}
    assert dots["uvicorn 1.00"] < dots["thestral 2.00"] < dots["thestral 2.50"]


def test_plot_of_nothing():
    ElementTree.fromstring(plot.svg(REPORT | {"results": {}}))
