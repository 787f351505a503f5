"""deploy/'s files for Prometheus and Grafana: read by promtool, and held against our metrics."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from process import PLAIN, Command
from support import program, wait_until
from test_documents import PROMETHEUS, SERVING, fences

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

DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
# What Grafana puts in the place of variables, if "All" is chosen.
CHOSEN = {"job": ".+", "instance": ".+", "worker": ".+", "__rate_interval": "1m"}
COLUMNS = 24  # of Grafana's grid
SECTION = "\n".join(fences(ROOT / "docs/observability.md", "sh"))


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


def chosen(expression: str) -> str:
    """An expression of the dashboard, as Grafana sends it."""
    return re.sub(r"\$(\w+)", lambda match: CHOSEN[match[1]], expression)


def queries(panel: dict[str, Any]) -> list[str]:
    return [chosen(target["expr"]) for target in panel["targets"]]


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


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_shows_metrics_that_exist(panel):
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target, query in zip(panel["targets"], queries(panel), strict=True):
        assert target["datasource"] == panel["datasource"]
        check_expression(query)
        shown = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
        grouped = re.search(r"by \(([^)]*)\)", query)
        assert shown <= set(re.findall(r"\w+", grouped[1] if grouped else ""))
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)


def test_dashboard_shows_every_metric():
    shown = " ".join(query for panel in PANELS for query in queries(panel))
    used = {name for name in SERIES if re.search(rf"\b{name}\b", shown)}
    for family in FAMILIES.values():
        assert used & {family.name + suffix for suffix in SUFFIXES.get(family.kind, [""])}


def test_variables_of_the_dashboard():
    assert list(VARIABLES) == ["datasource", "job", "instance", "worker"]
    for name in ("job", "instance", "worker"):
        query = VARIABLES[name]["query"]["query"]
        assert VARIABLES[name]["definition"] == query
        values = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
        check_expression(chosen(values[1]))
        assert values[2] == name
        assert VARIABLES[name]["allValue"] == CHOSEN[name]


def test_prometheus_reads_what_is_asked_of_it(tmp_path):
    """By the dashboard, and by the adapter that Kubernetes gets a metric from."""
    asked = [query for panel in PANELS for query in queries(panel)]
    asked += [chosen(one["expr"]) for one in DASHBOARD["annotations"]["list"]]
    adapter = (DEPLOY / "prometheus-adapter.yml").read_text()
    templates = {"Series": "up", "LabelMatchers": 'job="app"', "GroupBy": "job"}
    (asking,) = re.findall(r"metricsQuery: (.*)", adapter)
    asked.append(re.sub(r"<<\.(\w+)>>", lambda match: templates[match[1]], asking))
    rules = [{"record": f"asked:{number}", "expr": one} for number, one in enumerate(asked)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_panels_have_places_of_their_own():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Traffic", "Saturation", "Connections", "Processes"]
    places = []
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        right, below = place["x"] + place["w"], place["y"] + place["h"]
        places += itertools.product(range(place["x"], right), range(place["y"], below))
    assert len(set(places)) == len(places)


# Series of what a healthy server without TLS does not see: they begin when it happens.
RARE = (
    *("thestral_refusals_total", "thestral_websockets_closed_total", 'status="5xx"'),
    *("thestral_http2_resets_total", "thestral_http2_goaways_total"),
    "thestral_tls_certificate_not_after_seconds",
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def ask(base: str, path: str, **values: str) -> Any:
    """What Prometheus' API answers."""
    with urlopen(f"{base}/api/v1/{path}?{urlencode(values)}") as answer:
        return json.load(answer)["data"]


@pytest.fixture
def five_minutes(tmp_path):
    """The server and Prometheus, as the page starts them, but with free ports, and five scrapes a
    second; the addresses of both.
    """
    (serving,) = [one for one in SERVING if one in SECTION and "--admin" in one]
    (prometheus,) = [one for one in PROMETHEUS if one.startswith("prometheus ")]
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "main.py").write_text(PLAIN)
    arguments = shlex.split(serving.replace(USUAL, "127.0.0.1:0"))[1:]
    with Command(*arguments, "--port", "0", cwd=tmp_path) as command:
        url = command.url()
        admin = wait_until(lambda: re.search(r"Admin port on http://(\S+)", command.stderr))[1]
        urlopen(url).close()
        configuration = tmp_path / "deploy/prometheus.yml"
        text = configuration.read_text().replace("15s", "200ms").replace(USUAL, admin)
        configuration.write_text(text)
        address = f"127.0.0.1:{free_port()}"
        process = subprocess.Popen(
            [
                program("Prometheus"),
                *shlex.split(prometheus)[1:],
                f"--web.listen-address={address}",
            ],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield url, f"http://{address}"
        finally:
            process.terminate()
            process.wait()
        command.stop()


def test_from_nothing_to_a_dashboard(five_minutes):
    url, base = five_minutes
    (command,) = [one for one in PROMETHEUS if one.startswith("curl ")]
    asking = [program("curl"), *shlex.split(command)[1:], "--fail", "--silent"]
    asking = [word.replace("http://127.0.0.1:9090", base) for word in asking]

    def rate():
        urlopen(url).close()
        answer = subprocess.run(asking, capture_output=True)
        return answer.returncode == 0 and json.loads(answer.stdout)["data"]["result"]

    wait_until(rate)
    for panel in PANELS:
        for query in queries(panel):
            result = ask(base, "query", query=query)["result"]
            assert result or any(name in query for name in RARE), query
    (group,) = ask(base, "rules")["groups"]
    assert [(rule["name"], rule["state"]) for rule in group["rules"]] == [
        (rule["alert"], "inactive") for rule in RULES
    ]


def test_page_explains_every_alert_and_no_other():
    page = (ROOT / "docs/observability.md").read_text()
    told = re.findall(r"^\| `(\w+)` \((\w+)\) \|", page, re.MULTILINE)
    assert sorted(told) == sorted((rule["alert"], rule["labels"]["severity"]) for rule in RULES)


def test_page_has_queries_that_prometheus_can_answer():
    for query in re.findall(
        r"`(histogram_quantile\(.*)`", (ROOT / "docs/observability.md").read_text()
    ):
        check_expression(query)
