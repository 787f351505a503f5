"""bench/peers.py: rounds, and turns that fail. The servers themselves are not started."""

from __future__ import annotations

import argparse

import peers
import pytest
from scenarios import SCENARIOS
from servers import UnsupportedError

PLAIN = SCENARIOS["plain GET, 4 headers"]


def run(monkeypatch, turns, scenario=PLAIN, rounds=2, servers=("thestral", "uvicorn")):
    """Rounds of servers whose turns give these figures, or raise these errors."""
    order = []

    def measure(scenario, server, environment, seconds, cores):
        order.append(server)
        found = turns[server].pop(0)
        if isinstance(found, Exception):
            raise found
        return {"cpu": found}

    monkeypatch.setattr(peers, "measure", measure)
    options = argparse.Namespace(rounds=rounds, seconds=1, servers=list(servers))
    return peers.rounds(options, None, scenario, lambda text: None), order


def test_servers_take_turns(monkeypatch):
    result, order = run(monkeypatch, {"thestral": [1, 2], "uvicorn": [3, 4]})
    assert order == ["thestral", "uvicorn", "thestral", "uvicorn"]
    assert result["servers"] == {
        "thestral": [{"cpu": 1}, {"cpu": 2}],
        "uvicorn": [{"cpu": 3}, {"cpu": 4}],
    }


def test_a_turn_that_fails_is_taken_once_more(monkeypatch):
    turns = {"thestral": [ValueError("stalled"), 1, 2], "uvicorn": [3, 4]}
    result, _ = run(monkeypatch, turns)
    assert result["servers"]["thestral"] == [{"cpu": 1}, {"cpu": 2}]
    assert result["again"] == {"thestral": "stalled"}


def test_a_server_that_fails_twice_is_left_out(monkeypatch):
    turns = {"thestral": [ValueError("wrong"), ValueError("wrong again")], "uvicorn": [3, 4]}
    result, order = run(monkeypatch, turns)
    assert result["servers"]["thestral"] == "failed: wrong again"
    assert result["again"] == {}
    assert order == ["thestral", "thestral", "uvicorn", "uvicorn"]


def test_what_a_server_cannot_do_is_not_tried_again(monkeypatch):
    turns = {"thestral": [UnsupportedError("has no access log")], "uvicorn": [3, 4]}
    result, order = run(monkeypatch, turns)
    assert result["servers"]["thestral"] == "has no access log"
    assert order.count("thestral") == 1


def test_limits_take_part_only_where_they_can(monkeypatch):
    posted = SCENARIOS["POST 1 KB"]
    result, _ = run(monkeypatch, {"thestral": [1, 2]}, posted, servers=("thestral", "C epoll"))
    assert list(result["servers"]) == ["thestral"]


def test_scenarios_and_servers_are_checked(capsys):
    with pytest.raises(SystemExit):
        peers.parse(["--scenarios", "no such"])
    assert "no such" in capsys.readouterr().err
