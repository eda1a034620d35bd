"""``clusterjobs config`` as a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pytest_clusterjobs.backends.base import BackendInfo, Partition
from pytest_clusterjobs.cli.config_text import first_file
from pytest_clusterjobs.cli.main import main
from pytest_clusterjobs.config.layers import load
from pytest_clusterjobs.engine.probe import Probe

CONFIGURATION = """\
defaults:
  account: ab12
  env: {TOKEN: s3cret}
profiles:
  short:
    backend: slurm
    modules: [gcc, mpi]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for key in ("CONFIG", "KEEP", "TIMEOUT", "QUEUE_TIMEOUT", "WORKDIR", "MAX_JOBS"):
        monkeypatch.delenv(f"CLUSTERJOBS_{key}", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def clusterjobs(*args: str) -> Result:
    return CliRunner().invoke(main, args, prog_name="clusterjobs")


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.output.splitlines()]


def test_show_prints_what_counts(folder: Path) -> None:
    (folder / "clusterjobs.yaml").write_text(CONFIGURATION)
    shown = lines(clusterjobs("config", "show", "short"))
    assert shown[0] == "backend slurm"
    assert {"account ab12", 'modules ["gcc", "mpi"]', "keep failed", "cores 1", "env.TOKEN (set)"} <= set(shown)


def test_show_tells_where_each_value_comes_from_and_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "clusterjobs.yaml").write_text(CONFIGURATION)
    monkeypatch.setenv("CLUSTERJOBS_KEEP", "never")
    result = clusterjobs("config", "show", "short", "--origin")
    path = f"{folder}/clusterjobs.yaml"
    expected = {
        f"backend slurm # {path}:6 (profiles.short)",
        f"account ab12 # {path}:2 (defaults)",
        f"env.TOKEN (set) # {path}:3 (defaults)",
        "keep never # CLUSTERJOBS_KEEP",
        "lost_after 30.0 # default",
    }
    assert expected <= set(lines(result))
    assert "s3cret" not in result.output


def test_show_without_a_name_lists_files_and_profiles(folder: Path) -> None:
    assert lines(clusterjobs("config", "show"))[0] == "# no configuration file"
    (folder / "clusterjobs.yaml").write_text(CONFIGURATION)
    shown = lines(clusterjobs("config", "show"))
    assert shown[:2] == [f"# file: {folder}/clusterjobs.yaml", "# profiles: short"]
    assert "account ab12" in shown


def test_show_of_an_unknown_profile_lists_the_known(folder: Path) -> None:
    (folder / "clusterjobs.yaml").write_text(CONFIGURATION)
    result = clusterjobs("config", "show", "shrot")
    assert result.exit_code == 2
    assert "no backend or profile named 'shrot'" in result.output
    assert "profiles: short — did you mean 'short'?" in result.output


def test_wrong_file_is_told_with_exit_code_2(folder: Path) -> None:
    (folder / "clusterjobs.yaml").write_text("defaults: {coers: 2}")
    for verb in (("config", "show"), ("check", "local")):
        result = clusterjobs(*verb)
        assert result.exit_code == 2
        assert "clusterjobs.yaml:1: defaults.coers: there is no such key" in result.output


def test_check_takes_profiles(folder: Path) -> None:
    (folder / "clusterjobs.yaml").write_text("profiles: {mine: {backend: local, workdir: /x, max_jobs: 3}}")
    result = clusterjobs("check", "mine", "--json")
    assert result.exit_code == 0, result.output
    assert [(each["name"], each["is_available"]) for each in json.loads(result.output)] == [("mine", True)]


def test_init_writes_a_file_that_is_right_and_never_over_another(folder: Path) -> None:
    result = clusterjobs("config", "init")
    assert result.exit_code == 0, result.output
    assert "local: local (" in result.output
    text = (folder / "clusterjobs.yaml").read_text()
    assert lines(clusterjobs("config", "show", "local"))[0] == "backend local"
    again = clusterjobs("config", "init")
    assert again.exit_code == 1
    assert "clusterjobs.yaml is there already; it is left as it is" in again.output
    assert (folder / "clusterjobs.yaml").read_text() == text


def test_init_leaves_a_link_that_leads_nowhere(folder: Path) -> None:
    (folder / "clusterjobs.yaml").symlink_to(folder / "nowhere")
    assert clusterjobs("config", "init").exit_code == 1
    assert not (folder / "nowhere").exists()


def test_init_beside_a_pyproject_that_has_it_is_refused(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.clusterjobs]\n")
    result = clusterjobs("config", "init")
    assert result.exit_code == 1
    assert "a project has one configuration" in result.output


def test_first_file_has_a_profile_for_each_partition(folder: Path) -> None:
    info = BackendInfo(
        "slurm 22.05.8\nodd",
        cores_per_node=8,
        partitions=(Partition("main", True, 4, 3600.0), Partition("a b", nodes=1, status="drain")),
    )
    probes = [Probe("slurm", True, info, ""), Probe("sge", False, None, "sge: qstat not found on PATH")]
    text, told = first_file(probes)
    assert told == ["slurm: slurm 22.05.8 odd: slurm-main, slurm-a-b", "sge: not used: qstat not found on PATH"]
    assert "# slurm 22.05.8 odd, the default partition, 4 nodes, up to 8 cores per node" in text
    (folder / "clusterjobs.yaml").write_text(text.replace('"a b"', '"ab"').replace("    # time", "    time"))
    configuration = load(str(folder), lambda: ["slurm", "sge"], lambda _: frozenset())
    assert configuration is not None
    settings = configuration.settings("slurm-main")
    assert (settings["partition"].value, settings["time"].value) == ("main", "01:00:00")


def test_schema_is_json(folder: Path) -> None:
    result = clusterjobs("config", "schema")
    assert result.exit_code == 0
    assert "Profile" in json.loads(result.output)["$defs"]


def test_unknown_verb_is_told_with_the_nearest(folder: Path) -> None:
    result = clusterjobs("config", "shwo")
    assert result.exit_code == 2
    assert "no VERB named 'shwo'; known: show, init, schema — did you mean 'show'?" in result.output
