"""deploy/'s files for Prometheus and Grafana: read by promtool, and held against our metrics."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from support import program

from thestral.config.address import USUAL
from thestral.metrics.prometheus import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"]}
SCRAPED = {"job", "instance"}  # labels that Prometheus adds
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]


def series() -> dict[str, set[str]]:
    """The labels of each series that Prometheus gets. The page's tables have the labels; another
    test holds them against the server.
    """
    page = (ROOT / "docs/observability.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| (.*?) \|", page, re.MULTILINE)
    labels = {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows}
    found = {"up": set(SCRAPED)}
    for family in FAMILIES.values():
        for suffix in SUFFIXES.get(family.kind, [""]):
            name = family.name + suffix
            own = labels[family.name if family.kind == "histogram" else name]
            found[name] = own | SCRAPED | ({"le"} if suffix == "_bucket" else set())
    return found


SERIES = series()


def check_expression(expression: str) -> None:
    """Check that the metrics of an expression in PromQL exist, and have the labels it names."""
    plain = re.sub(r'"[^"]*"', '""', expression)
    used = set(re.findall(r"\b(?:up|(?:http|thestral)_\w+)\b", plain))
    assert used, expression
    assert used <= SERIES.keys(), used - SERIES.keys()
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", plain):
        labels = set(re.findall(r"(\w+)\s*[=!]", matchers))
        assert labels <= SERIES[name], (name, labels - SERIES[name])
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\b(?:by|on) \(([^)]*)\)", plain))))
    known = set.union(*(SERIES[name] for name in used))
    assert grouped <= known, (expression, grouped - known)


def promtool(*arguments: str | Path) -> str:
    """Run promtool; it must find nothing wrong."""
    result = subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        "thestral_request",
        'thestral_requests_total{route="/"}',
        "sum by (worker) (thestral_requests_total)",
    ],
)
def test_metrics_and_labels_that_do_not_exist_are_found(wrong):
    with pytest.raises(AssertionError):
        check_expression(wrong)


def test_prometheus_reads_its_configuration():
    """And the rules that it names."""
    assert f"{len(RULES)} rules found" in promtool("check", "config", DEPLOY / "prometheus.yml")
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [USUAL]}]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_is_about_metrics_that_exist(rule):
    check_expression(rule["expr"])
    known = set.union(
        *(SERIES[name] for name in re.findall(r"\w+", rule["expr"]) if name in SERIES)
    )
    named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert named <= known
    assert rule["labels"]["severity"] in ("warning", "critical")


def test_every_alert_fires_when_it_should():
    promtool("test", "rules", DEPLOY / "alerts_test.yml")
    cases = [
        case
        for test in yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    alerts = {rule["alert"] for rule in RULES}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts
