"""What works on this machine, what is missing, and the command that helps here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import solo_edge
from solo_edge.doctor.check import Check
from solo_edge.doctor.gpu import gpu_checks
from solo_edge.doctor.packages import backend_checks, package_checks
from solo_edge.doctor.platforms import identify
from solo_edge.doctor.probes import TIME_LIMIT_S, Answer, ask
from solo_edge.doctor.system import jetson_checks, system_checks, variable_checks
from solo_edge.environment.files import SystemFiles

__all__ = ["SCHEMA", "Check", "can_run_engines", "diagnose", "to_dict"]

SCHEMA = 1  # of `to_dict`; goes up when a key changes its meaning or goes away


def diagnose(
    root: Path = Path("/"),
    *,
    answers: Mapping[str, Answer] | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> list[Check]:
    """Look at the machine and at every package that some command can use. Nothing is changed.

    Args:
        root: where the system's files are; another folder in tests.
        answers: what native libraries say, as of `solo_edge.doctor.probes.ask`; None asks them.
        time_limit_s: how long a library may take to answer.
    """
    files = SystemFiles(root)
    if answers is None:
        answers = ask(time_limit_s=time_limit_s)
    driver = answers["driver"].facts
    cuda = (driver["cuda"][0], driver["cuda"][1]) if "cuda" in driver else None
    on = identify(files, cuda, len(driver.get("devices", ())))
    checks = [
        *system_checks(files, Path()),
        *jetson_checks(files),
        *variable_checks(),
        *gpu_checks(files, on, answers),
        *package_checks(files, on, answers),
    ]
    by_id = {check.id: check for check in checks}
    return [*checks, *backend_checks(by_id, answers["openvino"].facts.get("devices", {}))]


def can_run_engines(checks: Iterable[Check]) -> bool:
    """Whether images can be segmented here: OpenCV and at least one backend work."""
    working = {check.id for check in checks if check.status in ("ok", "warning")}
    return "opencv" in working and any(name.startswith("backend-") for name in working)


def to_dict(checks: Iterable[Check]) -> dict[str, Any]:
    """The diagnosis as plain values for JSON, for programs and bug reports."""
    checks = list(checks)
    return {
        "schema": SCHEMA,
        "solo_edge": solo_edge.__version__,
        "can_run_engines": can_run_engines(checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }
