"""``python -m benchmarks``: run them, print tables, keep the figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.measure import ROOT, Plan, Row
from benchmarks.suite import BENCHMARKS

RESULTS = ROOT / "benchmarks" / "results"
LATEST = ROOT / "benchmarks" / "latest.json"
PAGE = ROOT / "docs" / "explanation" / "benchmarks.md"
PEERS = ("submitit", "psij-python")

_FIGURES = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)


def main() -> int:
    """Run the benchmarks that were asked for; gives 1 when a bar was missed."""
    options = _options()
    chosen = options.names or list(BENCHMARKS)
    with peers_python(options.peers and "peers" in chosen) as python:
        plan = Plan(options.quick, options.pairs, python)
        load_before = os.getloadavg()[0]
        rows = [row for name in chosen for row in _announced(name, plan)]
    report = {"machine": _machine(load_before), "rows": [row.as_json() for row in rows]}
    print("\n" + "\n\n".join(tables.aligned(cells) for cells in _tables(rows)))
    print(f"\n{_described(report['machine'])}")
    for path in _places(options):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.publish:
        _publish(rows, report["machine"])
    return 0 if options.quick or all(row.is_met for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = "\n".join(f"  {name:12} {function.__doc__}" for name, function in BENCHMARKS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"benchmarks:\n{names}"
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all when none is named")
    parser.add_argument("--quick", action="store_true", help="only show that they run; the figures mean nothing")
    parser.add_argument("--pairs", type=int, default=21, help="turns for quick measures; others get fewer")
    parser.add_argument("--peers", action="store_true", help="install submitit and PSI/J aside, and measure them too")
    parser.add_argument("--json", type=Path, metavar="PATH", help="keep the figures here as well")
    parser.add_argument("--publish", action="store_true", help="put the figures into the documentation")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(BENCHMARKS)):
        parser.error(f"no benchmark named {unknown[0]!r}; known: {', '.join(BENCHMARKS)}")
    return options


@contextmanager
def peers_python(is_wanted: bool) -> Iterator[str | None]:
    """Give a Python that has the peers, in an environment that is thrown away; None where they cannot be installed."""
    if not is_wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        python = os.path.join(folder, "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PEERS]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"the peers cannot be installed and are left out: {done.stderr.strip().splitlines()[-1]}")
        yield None if done.returncode else python


def _announced(name: str, plan: Plan) -> Iterator[Row]:
    """Run one benchmark, and print each figure when it is there."""
    began = time.monotonic()
    for row in BENCHMARKS[name](plan):
        print(f"{time.monotonic() - began:6.1f} s  {name}: {row.what}: {tables.figure(row)}", flush=True)
        yield row


def _tables(rows: Sequence[Row]) -> list[list[tuple[str, ...]]]:
    alone = [row for row in rows if not tables.has_peers(row)]
    peers = [row for row in rows if tables.has_peers(row)]
    return [*([tables.bars(alone)] if alone else []), *([tables.beside_peers(peers)] if peers else [])]


def _places(options: argparse.Namespace) -> list[Path]:
    moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
    return [
        RESULTS / f"{moment}.json",
        *([options.json] if options.json else []),
        *([LATEST] if options.publish else []),
    ]


def _machine(load_before: float) -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
    }


def _described(machine: Any) -> str:
    return (
        f"{machine['date']}, {machine['cores']} cores, Python {machine['python']}, {machine['system']}, "
        f"load {machine['load_before']:.1f} before and {machine['load_after']:.1f} after"
    )


def _publish(rows: Sequence[Row], machine: Any) -> None:
    text = "\n\n".join([_described(machine) + ".", *(tables.markdown(cells) for cells in _tables(rows))])
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_FIGURES.sub(lambda _: f"\n{text}\n\n", page), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
