"""The report as JSON, and the schema that it keeps to."""

from __future__ import annotations

import json
import os
from typing import Any

from pytest_clusterjobs.reports.model import RunReport


def render(report: RunReport) -> str:
    """Give the report as JSON text, ending with a line break. A value that JSON has no type for becomes its text."""
    return json.dumps(report.to_dict(), indent=2, default=str) + "\n"


def schema() -> dict[str, Any]:
    """Give the JSON schema of `render`'s text: draft 2020-12."""
    with open(os.path.join(os.path.dirname(__file__), "report.schema.json"), encoding="utf-8") as file:
        loaded: dict[str, Any] = json.load(file)
    return loaded
