"""Workflows call make targets that exist, with no more rights than they use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from support import program

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


JOBS = [
    pytest.param(job, id=f"{path.stem}-{name}")
    for path in WORKFLOWS
    for name, job in yaml.safe_load(path.read_text())["jobs"].items()
]


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_each_task_of_the_makefile_is_phony():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == targets()


@pytest.mark.parametrize("job", JOBS)
def test_job_calls_make_targets_alone(job):
    for step in job.get("steps", []):
        if "run" in step:
            called, target, *variables = step["run"].split()
            assert called == "make"
            assert target in targets()
            assert all(re.fullmatch(r"[A-Z]+=[\w$-]+", variable) for variable in variables)
            command = [program("make"), "--dry-run", target, *variables]
            dry = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize("job", JOBS)
def test_job_is_pinned_and_has_least_rights(job):
    assert job["permissions"] in ({"contents": "read"}, {"id-token": "write"})
    if job["permissions"] == {"id-token": "write"}:  # what publishes runs nothing of ours
        assert job["environment"]["name"] == "pypi"
        assert not any("run" in step for step in job["steps"])
    for step in job.get("steps", []):
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"])
            if step["uses"].startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_gives_no_rights_of_its_own(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_form_can_be_read(path):
    form = yaml.safe_load(path.read_text())
    if path.stem != "config":
        assert {"name", "description", "body"} <= set(form)
        fields = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(set(fields)) == len(fields)
