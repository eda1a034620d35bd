#!/usr/bin/env python3
"""Add up what pytest wrote to build/test-reports, a file for each part; fail where a required lane ran no test."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

REPORTS = Path(__file__).resolve().parent.parent / "build" / "test-reports"
WORDS = ("passed", "failed", "skipped")


def count(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Give how many tests passed, failed and were skipped, and the reasons of the skips."""
    counts, reasons = dict.fromkeys(WORDS, 0), dict[str, int]()
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        kinds = {child.tag for child in case}
        skip = case.find("skipped")
        if kinds & {"failure", "error"}:
            counts["failed"] += 1
        elif skip is not None and skip.get("type") != "pytest.xfail":
            counts["skipped"] += 1
            reason = skip.get("message", "")
            reasons[reason] = reasons.get(reason, 0) + 1
        else:
            counts["passed"] += 1
    return counts, reasons


def main(required: list[str]) -> int:
    """Print a line for each part, each reason of a skip, and the sum; give the exit code."""
    total, problems = dict.fromkeys(WORDS, 0), []
    for path in sorted(REPORTS.glob("*.xml")):
        counts, reasons = count(path)
        print(f"{path.stem:>12}  " + ", ".join(f"{counts[word]} {word}" for word in WORDS))
        for reason, number in sorted(reasons.items()):
            print(f"{'':>14}skipped {number}: {reason}")
        total = {word: total[word] + counts[word] for word in WORDS}
    for lane in required:
        path = REPORTS / f"{lane}.xml"
        if not path.exists() or not count(path)[0]["passed"]:
            problems.append(f"the lane {lane!r} must run and no test of it has passed")
    print(", ".join(f"{total[word]} {word}" for word in WORDS))
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems or total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
