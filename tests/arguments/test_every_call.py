"""Every public call takes what it takes, and refuses everything else by name."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.arguments.public import EXEMPT, exempt, public_calls
from visit_tl.arguments.checked import Plan

CALLS = public_calls()
CHECKED = [name for name, call in CALLS.items() if getattr(call, "__checked__", False)]


def test_every_public_call_checks_its_arguments_or_says_why_not():
    unchecked = [
        name
        for name, call in CALLS.items()
        if not exempt(name) and not getattr(call, "__checked__", False)
    ]
    assert unchecked == []


def test_no_exemption_is_stale():
    of_a_class = {name.rpartition(".")[0] for name in CALLS}
    assert set(EXEMPT) <= set(CALLS) | of_a_class


@pytest.mark.parametrize("name", CHECKED)
def test_every_argument_says_what_it_takes(name):
    plan = Plan(CALLS[name].__wrapped__)
    taken = [
        p for p in inspect.signature(CALLS[name]).parameters.values() if p.kind != p.VAR_KEYWORD
    ]
    assert {p.name for p in taken} - {"self", "cls"} == set(plan.checks)


def test_no_odd_value_ends_in_a_raw_error(tmp_path):
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "tests.arguments.odd_values"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root, "VISIT_TL_ATLAS": "memory", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(found) == sorted(CHECKED)
    assert {name: raw for name, raw in found.items() if raw} == {}
