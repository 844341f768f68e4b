"""What is written beside every number."""

from __future__ import annotations

import json

import numpy as np

from solo_edge import environment


def test_environment_is_plain_values():
    facts = environment.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1 << 28
    assert facts["versions"]["numpy"] == np.__version__
    assert set(facts["isa"]) <= set(environment.ISA_FLAGS)


def test_commit_is_none_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.solo_edge, "__file__", str(tmp_path / "solo_edge/__init__.py"))
    assert environment._commit() is None


def test_a_machine_without_proc_is_described_too(monkeypatch):
    monkeypatch.setattr(environment, "_read", lambda path: None)
    facts = environment.describe()
    assert facts["isa"] == []
    assert facts["cpu"]
