"""`solo-edge doctor`."""

from __future__ import annotations

import argparse
import json

from solo_edge.cli.console import note
from solo_edge.cli.parser import Command, CommandParser
from solo_edge.errors import ResourceError

__all__ = ["DOCTOR"]


def _arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print JSON, for programs and bug reports"
    )


def _doctor(values: argparse.Namespace) -> int:
    from solo_edge.doctor import can_run_engines, diagnose, to_dict

    checks = diagnose()
    if values.json:
        print(json.dumps(to_dict(checks), indent=2, ensure_ascii=False))
    else:
        width = max(len(check.id) for check in checks)
        for check in checks:
            status = "" if check.status == "info" else check.status
            print(f"{check.id:<{width}}  {status:<7}  {check.text}")
            if check.fix is not None and status not in ("", "ok"):
                print(f"{'':<{width}}           -> {check.fix}")
    if can_run_engines(checks):
        return 0
    note("no engine can run here: OpenCV or every backend is missing")
    return ResourceError.exit_code


DOCTOR = Command(
    "doctor",
    "Show what works on this machine, what is missing and how to install it.",
    "solo-edge doctor",
    _arguments,
    _doctor,
)
