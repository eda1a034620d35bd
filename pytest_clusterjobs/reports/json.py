"""The report as JSON, and the schema that it keeps to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from pytest_clusterjobs.reports.model import RunReport


def render(report: RunReport) -> Iterator[str]:
    """Give the report as the pieces of a JSON text that ends with a line break.

    A value that JSON has no type for becomes its text.
    """
    yield from json.JSONEncoder(indent=2, default=str).iterencode(report.to_dict())
    yield "\n"


def schema() -> dict[str, Any]:
    """Give the JSON schema of what `render` gives: draft 2020-12."""
    with open(os.path.join(os.path.dirname(__file__), "report.schema.json"), encoding="utf-8") as file:
        loaded: dict[str, Any] = json.load(file)
    return loaded
