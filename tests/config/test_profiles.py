"""Configuration files: what they may say, what is said of what they may not, and which layer wins."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.config import files, profiles
from pytest_clusterjobs.config.layers import Configuration, Sourced, load
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import ConfigError, UnknownBackendError
from pytest_clusterjobs.core.spec import lay_over, make_spec
from pytest_clusterjobs.engine.configured import Configured, from_environment

BACKENDS = ("local", "slurm", "sge")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no variable of ours."""
    for key in ("CONFIG", "KEEP", "TIMEOUT", "QUEUE_TIMEOUT", "WORKDIR", "MAX_JOBS"):
        monkeypatch.delenv(f"CLUSTERJOBS_{key}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def options_of(backend: str) -> frozenset[str]:
    return frozenset({"parallel_environment", "memory_resource"}) if backend == "sge" else frozenset()


def loaded(folder: Path) -> Configuration:
    found = load(str(folder), lambda: BACKENDS, options_of)
    assert found is not None
    return found


def written(folder: Path, text: str) -> Configuration:
    (folder / "clusterjobs.yaml").write_text(text)
    return loaded(folder)


def complaints(folder: Path, text: str, name: str = "clusterjobs.yaml") -> list[str]:
    """Give the complaints about a file, without its folder."""
    (folder / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        loaded(folder)
    lines = str(caught.value).splitlines()
    return [line.removeprefix(f"{folder}/") for line in (lines[1:] or lines)]


# ---------------------------------------------------------------- which files there are


def test_without_a_file_there_is_no_configuration_and_backends_are_places(project: Path) -> None:
    assert load(str(project), lambda: BACKENDS, options_of) is None
    place = Configured(str(project)).place("slurm")
    assert (place.name, place.backend, place.defaults, place.python) == ("slurm", "slurm", None, None)


def test_file_is_found_upwards(project: Path) -> None:
    (project / "deep" / "er").mkdir(parents=True)
    (project / "clusterjobs.yaml").write_text("profiles: {short: {backend: slurm}}")
    assert loaded(project / "deep" / "er").profiles == ("short",)


def test_directory_that_anybody_can_write_to_is_passed_over(project: Path) -> None:
    (project / "deep").mkdir()
    (project / "clusterjobs.yaml").write_text("profiles: {short: {backend: slurm}}")
    project.chmod(0o777)
    assert load(str(project / "deep"), lambda: BACKENDS, options_of) is None
    assert loaded(project).profiles == ("short",)  # where one works it counts


def test_variable_picks_the_file(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "clusterjobs.yaml").write_text("profiles: {near: {backend: slurm}}")
    (tmp_path / "other.yaml").write_text("profiles: {far: {backend: slurm}}")
    monkeypatch.setenv("CLUSTERJOBS_CONFIG", str(tmp_path / "other.yaml"))
    assert loaded(project).profiles == ("far",)


def test_variable_that_names_no_file_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERJOBS_CONFIG", str(project / "nowhere.yaml"))
    with pytest.raises(ConfigError, match=r"CLUSTERJOBS_CONFIG: there is no file '.*/nowhere.yaml'"):
        load(str(project), lambda: BACKENDS, options_of)


def test_pyproject_has_it_too(project: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[tool.clusterjobs.defaults]\naccount = "ab"\n[tool.clusterjobs.profiles.short]\nbackend = "slurm"\ncores = 2\n'
    )
    settings = loaded(project).settings("short")
    assert {key: each.value for key, each in settings.items()} == {"backend": "slurm", "account": "ab", "cores": 2}
    assert settings["cores"].origin == f"{project}/pyproject.toml:5 (profiles.short)"


def test_pyproject_without_our_table_does_not_count(project: Path) -> None:
    (project / "pyproject.toml").write_text('[project]\ndependencies = ["pytest-clusterjobs"]\n')
    assert load(str(project), lambda: BACKENDS, options_of) is None


def test_two_files_of_one_project_are_refused(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.clusterjobs]\n")
    said = complaints(project, "")
    other = f"[tool.clusterjobs] in {project}/pyproject.toml"
    assert said == [f"clusterjobs.yaml and {other} are two files of one project; keep one"]


def test_file_with_the_other_suffix_is_not_passed_over_in_silence(project: Path) -> None:
    assert complaints(project, "", "clusterjobs.yml") == ["clusterjobs.yml: the file must be named clusterjobs.yaml"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "defaults:\nprofiles:\n", "profiles: {slurm: }"])
def test_file_that_says_nothing_is_right(project: Path, text: str) -> None:
    assert written(project, text).settings("local")["backend"].value == "local"


# ---------------------------------------------------------------- what it says


def test_clock_without_quotes_is_what_it_is_with_them(project: Path) -> None:
    """YAML 1.1 has numbers of base 60: 1:30 was 90 seconds."""
    assert written(project, "defaults: {time: 1:30:00}").settings("local")["time"].value == "1:30:00"
    assert written(project, "defaults: {env: {FROM: 1:30}}").settings("local")["env.FROM"].value == "1:30"
    assert "no duration" in complaints(project, "defaults: {time: 1:30}")[0]


WHOLE = """\
profiles:
  whole:
    backend: sge
    queue: long.q
    account: ab12
    qos: high
    constraint: "skylake&gpu"
    cores: 4
    memory: 1.5GiB
    time: 1:30:00
    gpus: 2
    nodes: 3
    env: {OMP_NUM_THREADS: "4"}
    modules: gcc/12
    prologue: [ulimit -c 0, date]
    epilogue: date
    extra_args: [--verbose]
    extra_directives: --exclusive
    directives_skip: --mem
    keep: always
    timeout: 30m
    queue_timeout: 90
    python: ~/bin/python
    workdir: jobs
    max_jobs: 7
    command_timeout: 5
    lost_after: 1m
    timeout_factor: 1.5
    serial: true
    credentials: {TOKEN: op://team/hpc/token}
    credential_command: [pass, show, "{profile}/{key}"]
    options: {parallel_environment: smp}
"""


def test_every_key_arrives_where_it_belongs(project: Path) -> None:
    place = written(project, WHOLE).place("whole")
    assert place.defaults == make_spec(
        queue="long.q", account="ab12", qos="high", constraint="skylake&gpu", cores=4, memory="1.5GiB", time=5400,
        gpus=2, nodes=3, env={"OMP_NUM_THREADS": "4"}, modules="gcc/12", prologue=["ulimit -c 0", "date"],
        epilogue="date", extra_args=["--verbose"], extra_directives="--exclusive", keep="always", timeout=1800,
        queue_timeout=90,
    )  # fmt: skip
    assert (place.name, place.backend, place.python) == ("whole", "sge", str(Path("~/bin/python").expanduser()))
    assert (place.workdir, place.max_jobs, place.command_timeout_s, place.lost_after_s) == (
        str(project / "jobs"), 7, 5.0, 60.0,
    )  # fmt: skip
    assert (place.timeout_factor, place.is_serial) == (1.5, True)
    assert (place.directives_skip, place.options) == (("--mem",), {"parallel_environment": "smp"})


def test_the_whole_profile_has_every_key() -> None:
    assert all(f"    {name}:" in WHOLE for name in profiles.NAMES if name not in ("extends", "partition", "host"))


@pytest.mark.parametrize("python", ["python3.11", "/opt/python"])
def test_python_by_name_or_path_stays_as_it_is(project: Path, python: str) -> None:
    assert written(project, f"defaults: {{python: {python}}}").place("local").python == python


class TestHost:
    """Paths of a profile with a host are paths there."""

    TEXT = """
defaults: {workdir: here, python: /opt/python}
profiles:
  site: {backend: slurm, host: me@login.example.org, workdir: ~/jobs}
  short: {extends: site, workdir: jobs, python: ~/venv/bin/python}
  plain: {backend: slurm, host: login}
"""

    def test_paths_stay_as_they_are_written(self, project: Path) -> None:
        configuration = written(project, self.TEXT)
        site, short = configuration.place("site"), configuration.place("short")
        assert (site.host, site.workdir) == (("me@login.example.org",), "~/jobs")
        assert (short.host, short.workdir, short.python) == (("me@login.example.org",), "jobs", "~/venv/bin/python")

    def test_several_are_kept_in_their_order(self, project: Path) -> None:
        configuration = written(project, "profiles: {farm: {backend: slurm, host: [b, a]}}")
        assert configuration.place("farm").host == ("b", "a")

    def test_the_directory_of_all_runs_is_none_there(self, project: Path) -> None:
        assert written(project, self.TEXT).place("plain").workdir is None

    def test_what_is_given_above_the_files_is_here(self, project: Path) -> None:
        assert written(project, self.TEXT).place("site", {"workdir"}).workdir == "~/jobs"

    def test_a_run_here_and_there_has_its_own_directory_here(self, project: Path) -> None:
        written(project, self.TEXT)
        configured = Configured(str(project))
        assert configured.of_the_run(["local", "site", "plain"]) == {"workdir": str(project / "here")}
        assert configured.workdirs() == [str(project / "here")]

    @pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "", ["a", "a"], [], ["a", 1]])
    def test_what_is_no_host_is_refused(self, project: Path, host: object) -> None:
        with pytest.raises(ConfigError, match=r"profiles\.site\.host: host="):
            written(project, f"profiles: {{site: {{backend: slurm, host: {json.dumps(host)}}}}}")


# ---------------------------------------------------------------- what it may not say


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profils: {}", "1: profils: there is no such key — did you mean 'profiles'? Known: defaults, profiles"),
        ("defaults:\n  acount: x", "2: defaults.acount: there is no such key — did you mean 'account'? Known: "),
        ("defaults:\n  host: login", "2: defaults.host: there is no such key"),
        ("defaults:\n  backend: slurm", "2: defaults.backend: there is no such key"),
        ("defaults:\n  cores: four", "2: defaults.cores: cores='four' must be a whole number, 1 or more"),
        ("defaults:\n  cores: yes", "2: defaults.cores: cores=True must be a whole number, 1 or more"),
        ("defaults:\n  account: 12", "2: defaults.account: account=12 must be one word"),
        ("defaults:\n  account:", "2: defaults.account: has no value; write one, or remove the key"),
        ("defaults:\n  partition: |\n    a\n    b", "2: defaults.partition: partition='a\\nb' must be one word"),
        ("defaults:\n  memory: lots", "2: defaults.memory: memory='lots' is no memory size; write \"1GB\""),
        ("defaults:\n  time: soon", "2: defaults.time: time='soon' is no duration; write \"HH:MM:SS\""),
        ("defaults:\n  lost_after: 0", "2: defaults.lost_after: lost_after=0 must be more than zero"),
        ("defaults:\n  timeout_factor: 0", "2: defaults.timeout_factor: timeout_factor=0 must be a number above 0"),
        ("defaults:\n  timeout_factor: .inf", "timeout_factor=inf must be a number above 0"),
        ("defaults:\n  timeout_factor: yes", "timeout_factor=True must be a number above 0"),
        ("profiles:\n  p:\n    serial: 1", "3: profiles.p.serial: serial=1 must be true or false"),
        ("defaults:\n  keep: alwys", "must be one of failed, always, never — did you mean 'always'?"),
        ("defaults:\n  max_jobs: 0", "2: defaults.max_jobs: max_jobs=0 must be a whole number, 1 or more"),
        ("defaults:\n  modules: {a: b}", "2: defaults.modules: modules={'a': 'b'} must be a text or a list of texts"),
        ("defaults:\n  workdir: [a]", "2: defaults.workdir: workdir=['a'] must be a text of one line"),
        ("defaults:\n  directives_skip: ['']", "2: defaults.directives_skip: directives_skip=[''] must be a text"),
        (
            "defaults:\n  extra_directives: '#SBATCH --exclusive'",
            "without the scheduler's prefix, e.g. '--exclusive'",
        ),
        ("defaults: 5", "1: defaults: must be a mapping"),
        ("profiles: [a]", "1: profiles: must be a mapping"),
        ("profiles:\n  a: slurm", "2: profiles.a: must be a mapping"),
        ("profiles:\n  all: {backend: slurm}", "2: profiles.all: a profile's name is a word of --cluster"),
        ("profiles:\n  'a b': {backend: slurm}", "2: profiles.a b: a profile's name must be of letters, digits"),
        ("profiles:\n  1: {backend: slurm}", "2: profiles.1: a key must be a text; quote it"),
        ("profiles:\n  a: {cores: 1}", "2: profiles.a: names no backend; add backend, one of: local, slurm, sge"),
        (
            "profiles:\n  a:\n    backend: slrum",
            "3: profiles.a.backend: no backend named 'slrum'; known: local, slurm, sge — did you mean 'slurm'?",
        ),
        ("profiles:\n  slurm:\n    backend: local", "3: profiles.slurm.backend: a profile with a backend's name"),
        (
            "profiles:\n  a: {backend: slurm}\n  b:\n    extends: A",
            "4: profiles.b.extends: no profile named 'A'; known: a, b — did you mean 'a'?",
        ),
        ("profiles:\n  a:\n    extends: a", "3: profiles.a.extends: profiles extend each other in a circle: a -> a"),
        (
            "profiles:\n  a:\n    backend: sge\n    options:\n      paralel_environment: smp",
            "5: profiles.a.options.paralel_environment: the backend sge has no option 'paralel_environment'; known: "
            "memory_resource, parallel_environment — did you mean 'parallel_environment'?",
        ),
        (
            "profiles:\n  a: {backend: slurm, options: {x: y}}",
            "profiles.a.options.x: the backend slurm has no option 'x'; it has none",
        ),
        (
            "profiles:\n  a:\n    backend: sge\n    options: {parallel_environment: 5}",
            "options.parallel_environment=5 must be a text; quote it",
        ),
        ("defaults:\n  cores: 1\n  cores: 2", "3: defaults.cores: is there already, in line 2"),
        ("defaults:\n  cores: [", "2: is no YAML: expected the node content"),
        ("a: &a [*b]", "1: is no YAML: found undefined alias"),
        ("- a", "1: must be a mapping with the keys defaults and profiles"),
        ("a: 1\n---\nb: 2", "2: is no YAML: but found another document"),
        ("x: " + "[" * 5000, "is no YAML"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_key(project: Path, text: str, said: str) -> None:
    found = complaints(project, text)
    assert said in "\n".join(found)
    assert found[0].startswith("clusterjobs.yaml")


def test_all_errors_of_all_files_are_told_at_once_in_order(project: Path, home: Path) -> None:
    (home / "clusterjobs").mkdir(parents=True)
    (home / "clusterjobs" / "config.yaml").write_text("defaults: {cores: 0}\n")
    found = complaints(
        project, "profiles:\n  a: {backend: x}\n  b: {backend: slurm, coers: 1, time: x}\n  c: {extends: d}\nother: 1\n"
    )
    assert len(found) == 6
    assert [line.split(": ")[0].rpartition("/")[2] for line in found] == [
        "config.yaml:1",
        *(f"clusterjobs.yaml:{line}" for line in (2, 3, 3, 4, 5)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "defaults:\n  env: s3cret",
        "defaults:\n  env: [s3cret]",
        "defaults:\n  env: {A: [s3cret]}",
        'defaults:\n  env: {"A-B": s3cret}',
        "defaults:\n  env: {A: s3cret, A: s3cret}",
        "defaults:\n  env: {A: s3cret",
        "defaults:\n  env: {A: 's3cret}",
        "defaults:\n  env: {A: ! ! s3cret}",
        "defaults:\n  env: {A: *s3cret-}",
    ],
)
def test_values_of_env_are_in_no_message(project: Path, text: str) -> None:
    assert "env" in text
    said = "\n".join(complaints(project, text))
    assert said
    assert "s3cret" not in said.replace("alias 's3cret-'", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.clusterjobs.defaults]\nacount = 'x'", "pyproject.toml:2: defaults.acount: there is no such key"),
        ("[tool.clusterjobs]\ndefaults = {cores = 0}", "pyproject.toml:2: defaults.cores: cores=0 must be 1 or more"),
        ("[tool.clusterjobs]\n[tool", "pyproject.toml: is no TOML: "),
        ("[tool]\nclusterjobs = 5", "pyproject.toml: tool.clusterjobs must be a table"),
    ],
)
def test_errors_in_toml_have_their_line_too(project: Path, text: str, said: str) -> None:
    assert complaints(project, text, "pyproject.toml")[0].startswith(said)


def test_file_that_is_no_text_is_an_error(project: Path) -> None:
    (project / "clusterjobs.yaml").write_bytes(b"defaults: \xff")
    with pytest.raises(ConfigError, match=r"clusterjobs.yaml: is no UTF-8 text \(byte 10\)"):
        loaded(project)


def test_unknown_profile_lists_backends_profiles_and_the_nearest(project: Path) -> None:
    configuration = written(project, "profiles:\n  short: {backend: slurm}\n  long: {backend: slurm}\n")
    with pytest.raises(UnknownBackendError) as caught:
        configuration.place("shrot")
    assert str(caught.value) == (
        "no backend or profile named 'shrot'; known: local, slurm, sge; profiles: short, long — did you mean 'short'?"
    )


# ---------------------------------------------------------------- which layer wins

USER, PROJECT, OF_BACKEND, BASE, PROFILE = "user", "project", "of-backend", "base", "profile"


@pytest.mark.parametrize(
    ("layers", "winner"),
    [
        ([USER], USER),
        ([USER, PROJECT], PROJECT),
        ([USER, PROJECT, OF_BACKEND], OF_BACKEND),
        ([PROJECT, OF_BACKEND, BASE], BASE),
        ([OF_BACKEND, BASE, PROFILE], PROFILE),
        ([USER, PROFILE], PROFILE),
        ([USER, PROJECT, OF_BACKEND, BASE, PROFILE], PROFILE),
    ],
)
def test_later_layers_win(project: Path, home: Path, layers: list[str], winner: str) -> None:
    def line(layer: str) -> str:
        return f"account: {layer}" if layer in layers else "qos: any"

    (home / "clusterjobs").mkdir(parents=True)
    (home / "clusterjobs" / "config.yaml").write_text(f"defaults: {{{line(USER)}}}")
    configuration = written(
        project,
        f"defaults: {{{line(PROJECT)}}}\nprofiles:\n  slurm: {{{line(OF_BACKEND)}}}\n"
        f"  base: {{backend: slurm, {line(BASE)}}}\n  top: {{extends: base, {line(PROFILE)}}}\n",
    )
    assert configuration.settings("top")["account"].value == winner


def test_job_s_own_settings_win_over_the_profile(project: Path) -> None:
    place = written(project, "profiles: {p: {backend: local, cores: 4, qos: a, account: a}}").place("p")
    assert place.defaults is not None
    marker, decorator = make_spec(qos="b", account="b"), make_spec(cores=1, account="c")
    spec = lay_over(place.defaults, lay_over(marker, decorator))
    assert (spec.cores, spec.qos, spec.account) == (1, "b", "c")


def test_factor_of_a_slow_place_makes_every_limit_longer(project: Path) -> None:
    text = "profiles: {slow: {backend: local, timeout_factor: 2.5, time: 1h}, plain: {backend: local, time: 1h}}"
    configuration = written(project, text)
    settings = Settings(timeout_s=4, queue_timeout_s=8)
    given = configuration.place("slow").spec_for(make_spec(timeout=60), settings)
    assert (given.time_limit_s, given.timeout_s, given.queue_timeout_s) == (9000, 150, 20)
    without = configuration.place("slow").spec_for(make_spec(time=60), Settings())
    assert (without.time_limit_s, without.timeout_s, without.queue_timeout_s) == (150, None, None)
    assert configuration.place("plain").spec_for(make_spec(), settings) == make_spec(time=3600)


def test_a_profile_of_user_and_project_is_merged_key_by_key(project: Path, home: Path) -> None:
    (home / "clusterjobs").mkdir(parents=True)
    (home / "clusterjobs" / "config.yaml").write_text("profiles: {p: {backend: slurm, account: mine, qos: mine}}")
    settings = written(project, "profiles: {p: {qos: ours}}").settings("p")
    assert (settings["account"].value, settings["qos"].value) == ("mine", "ours")


def test_env_is_merged_name_by_name_and_lists_are_replaced(project: Path) -> None:
    place = written(
        project,
        "defaults: {env: {A: '1', B: '1'}, modules: [a, b]}\n"
        "profiles: {p: {backend: local, env: {B: '2'}, modules: c}}",
    ).place("p")
    assert place.defaults is not None
    assert (place.defaults.env, place.defaults.modules) == ({"A": "1", "B": "2"}, ("c",))


def test_what_lies_above_the_files_is_left_out_of_a_place(project: Path) -> None:
    (project / "clusterjobs.yaml").write_text("defaults: {keep: never, workdir: /a, timeout: 5}")
    above = {"keep": Sourced("always", "--cluster-keep"), "workdir": Sourced("/b", "CLUSTERJOBS_WORKDIR")}
    configured = Configured(str(project), above)
    place = configured.place("local")
    assert place.defaults == make_spec(timeout=5)
    assert place.workdir is None
    assert configured.effective("local")["keep"] == above["keep"]


def test_run_has_one_work_directory(project: Path) -> None:
    (project / "clusterjobs.yaml").write_text(
        "profiles:\n  a: {backend: local, workdir: /a}\n  b: {backend: local, workdir: /b}\n  c: {backend: local}\n"
    )
    configured = Configured(str(project))
    assert configured.of_the_run(["a"]) == {"workdir": "/a"}
    assert configured.of_the_run(["c"]) == {}
    with pytest.raises(ConfigError, match=r"workdir is one for the whole run.*a: /a, b: /b.*CLUSTERJOBS_WORKDIR"):
        configured.of_the_run(["a", "b"])


def test_reap_learns_every_work_directory(project: Path) -> None:
    (project / "clusterjobs.yaml").write_text(
        "defaults: {workdir: all}\nprofiles:\n  a: {backend: local, workdir: /a}\n  b: {backend: local}\n"
    )
    assert Configured(str(project)).workdirs() == [str(project / "all"), "/a"]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [("KEEP", "never", "never"), ("TIMEOUT", "5m", 300.0), ("MAX_JOBS", "3", 3), ("WORKDIR", "/w", "/w")],
)
def test_variables_lie_above_the_files(monkeypatch: pytest.MonkeyPatch, key: str, text: str, value: object) -> None:
    monkeypatch.setenv(f"CLUSTERJOBS_{key}", text)
    assert from_environment() == {key.lower(): Sourced(value, f"CLUSTERJOBS_{key}")}


@pytest.mark.parametrize(
    ("key", "text"), [("KEEP", "maybe"), ("TIMEOUT", "soon"), ("MAX_JOBS", "x"), ("MAX_JOBS", "0")]
)
def test_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, key: str, text: str) -> None:
    monkeypatch.setenv(f"CLUSTERJOBS_{key}", text)
    with pytest.raises(ConfigError, match=f"CLUSTERJOBS_{key}='{text}'"):
        from_environment()


def test_defaults_are_those_of_the_settings(project: Path) -> None:
    found = {key: each.value for key, each in Configured(str(project)).effective().items()}
    assert (found["keep"], found["lost_after"], found["python"]) == ("failed", Settings().lost_after_s, sys.executable)
    assert {each.origin for each in Configured(str(project)).effective().values()} == {"default"}


# ---------------------------------------------------------------- for editors


def test_schema_knows_every_key_and_no_other() -> None:
    schema: dict[str, Any] = profiles.schema()
    profile = schema["$defs"]["Profile"]
    assert tuple(profile["properties"]) == profiles.NAMES
    assert tuple(schema["$defs"]["Defaults"]["properties"]) == profiles.DEFAULT_NAMES
    assert profile["additionalProperties"] is False is schema["additionalProperties"]
    assert all(each["description"] for each in profile["properties"].values())
    assert json.loads(json.dumps(schema)) == schema


def test_key_paths_are_written_as_people_write_them() -> None:
    assert files.dotted(("profiles", "a", "modules", 0)) == "profiles.a.modules[0]"


# ---------------------------------------------------------------- the documentation

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", profiles.NAMES)
def test_every_key_has_a_row_in_the_reference(name: str) -> None:
    text = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| [^|]*`{name}`[^|]* \|", text, re.MULTILINE)


def test_examples_of_the_how_to_are_right(project: Path) -> None:
    text = (DOCS / "how-to" / "profiles.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    assert [written(project, block).profiles for block in blocks] == [("short", "gpu", "slurm"), ("odd-site",)]
