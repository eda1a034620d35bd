"""Credentials: which source has them, in which order, what is said where none has, and that no value is told."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_clusterjobs.config import credentials, dotenv
from pytest_clusterjobs.config.credentials import Credentials
from pytest_clusterjobs.config.files import find
from pytest_clusterjobs.core.errors import ClusterJobsError, ConfigError, CredentialError, is_infrastructure
from pytest_clusterjobs.engine.configured import Configured
from pytest_clusterjobs.engine.work import inherited_environment

ROOT = Path(__file__).parents[2]

#: Stands in for 1Password's command: knows what a file beside it says, and refuses everything else.
OP = """\
#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with open(here / "calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
verb, *flags, reference = sys.argv[1:]
if (verb, flags) != ("read", ["--no-newline"]):
    sys.exit("unknown command")
known = json.loads((here / "vaults.json").read_text())
if reference not in known:
    sys.exit("first line\\n[ERROR] could not read secret " + reference)
sys.stdout.write(known[reference])
"""


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of ours, an empty home, no program but those that a test puts there, and a keyring without keys."""
    for name in [name for name in os.environ if name.startswith("CLUSTERJOBS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], Path]:
    """Put a program on PATH."""

    def put(name: str, text: str) -> Path:
        path = tmp_path / "bin" / name
        path.write_text(text.replace("{python}", sys.executable))
        path.chmod(0o700)
        return path

    return put


@pytest.fixture
def op(tmp_path: Path, program: Callable[[str, str], Path]) -> Path:
    """Put ``op`` on PATH, and give the file that its calls are in."""
    program("op", OP)
    (tmp_path / "bin" / "vaults.json").write_text(json.dumps({"op://team/hpc item/token": "from-the-vault"}))
    return tmp_path / "bin" / "calls"


def of(folder: Path, name: str, text: str = "") -> Credentials:
    """Give a profile's credentials with this configuration file."""
    if text:
        (folder / "clusterjobs.yaml").write_text(text)
    return Configured(str(folder)).credentials(name)


def env_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / ".env"
    path.write_text(text)
    path.chmod(mode)
    return path


HPC = "profiles: {hpc-1: {backend: slurm, credentials: {TOKEN: op://team/hpc item/token}}}"


# ---------------------------------------------------------------- variables


def test_a_variable_has_it_by_the_profiles_name_without_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERJOBS_LOCAL_TOKEN", "from-a-variable")
    secret = of(tmp_path, "local")["TOKEN"]
    assert (secret.reveal(), secret.name, secret.origin) == (
        "from-a-variable", "TOKEN", "variable CLUSTERJOBS_LOCAL_TOKEN",
    )  # fmt: skip


def test_what_is_no_letter_in_a_profiles_name_is_an_underscore() -> None:
    assert credentials.variable("hpc-1.west", "TOKEN") == "CLUSTERJOBS_HPC_1_WEST_TOKEN"


def test_the_nearest_of_profile_parents_and_backend_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "profiles: {site: {backend: slurm}, short: {extends: site}}"
    for name in ("SLURM", "SITE", "SHORT"):
        monkeypatch.setenv(f"CLUSTERJOBS_{name}_TOKEN", f"from-{name}")
        assert of(tmp_path, "short", text)["TOKEN"].reveal() == f"from-{name}"
    assert of(tmp_path, "site")["TOKEN"].reveal() == "from-SITE"


def test_a_value_is_fetched_once_and_exported_never(tmp_path: Path, op: Path) -> None:
    before = dict(os.environ)
    found = of(tmp_path, "hpc-1", HPC)
    assert found["TOKEN"] is found["TOKEN"] is found.get("TOKEN")
    assert found["TOKEN"].reveal() == "from-the-vault"
    assert op.read_text() == "read --no-newline op://team/hpc item/token\n"
    assert dict(os.environ) == before


# ---------------------------------------------------------------- .env


def test_a_dotenv_file_has_it(tmp_path: Path) -> None:
    path = env_file(tmp_path, "OTHER=1\nsome other program's line\nCLUSTERJOBS_LOCAL_TOKEN=from-a-file # mine\n")
    secret = of(tmp_path, "local")["TOKEN"]
    assert (secret.reveal(), secret.origin) == ("from-a-file", f"CLUSTERJOBS_LOCAL_TOKEN in {path}")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("plain", "plain"),
        ("  spaces around  ", "spaces around"),
        ("with#hash #comment", "with#hash"),
        ("#comment", ""),
        ("''", ""),
        ("'single # \" $x \\n'  # c", 'single # " $x \\n'),
        ('"double \\"x\\" \\n \\\\ #"', 'double "x" \n \\ #'),
    ],
)
def test_values_are_read_as_shells_do_but_nothing_is_expanded(tmp_path: Path, written: str, value: str) -> None:
    path = env_file(tmp_path, f"export CLUSTERJOBS_A_B = {written}\n")
    assert dotenv.read(str(path)) == {"CLUSTERJOBS_A_B": value}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o602])
def test_a_dotenv_file_that_others_may_read_is_an_error(tmp_path: Path, mode: int) -> None:
    env_file(tmp_path, "CLUSTERJOBS_LOCAL_TOKEN=from-a-file", mode)
    with pytest.raises(ConfigError, match=rf"\.env holds credentials and others .* \(mode {mode:04o}\); chmod 600 /"):
        of(tmp_path, "local")["TOKEN"]


def test_a_dotenv_file_of_other_programs_may_be_as_it_is(tmp_path: Path) -> None:
    assert dotenv.read(str(env_file(tmp_path, "TOKEN=x\n'", 0o644))) == {}


@pytest.mark.parametrize("written", ["'s3cret", "\"s3cret'", "'s3cret' more", "'"])
def test_a_wrong_line_is_told_by_its_number_and_not_quoted(tmp_path: Path, written: str) -> None:
    path = env_file(tmp_path, f"\nCLUSTERJOBS_LOCAL_TOKEN={written}\n")
    with pytest.raises(ConfigError) as caught:
        dotenv.read(str(path))
    assert str(caught.value).startswith(f"{path}:2: CLUSTERJOBS_LOCAL_TOKEN: the quoted value must end in its line")
    assert "s3cret" not in str(caught.value)


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(ConfigError, match=r"\.env: cannot be read: Is a directory"):
        of(tmp_path, "local")["TOKEN"]


# ---------------------------------------------------------------- keyring


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Have a real keyring in a file, and put passwords into it."""
    pytest.importorskip("keyrings.alt", reason="the keyring in a file needs keyrings.alt")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyrings.alt.file.PlaintextKeyring")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def put(user: str, password: str) -> None:
        argv = [sys.executable, "-m", "keyring", "set", "clusterjobs", user]
        subprocess.run(argv, input=password, text=True, timeout=60, check=True)

    return put


def test_the_keyring_has_it(tmp_path: Path, keyring: Callable[[str, str], None]) -> None:
    keyring("hpc-1/TOKEN", "from-the-keyring")
    secret = of(tmp_path, "hpc-1", HPC)["TOKEN"]
    assert (secret.reveal(), secret.origin) == ("from-the-keyring", "keyring, service clusterjobs, user hpc-1/TOKEN")


def test_the_keyring_has_it_for_the_backend(tmp_path: Path, keyring: Callable[[str, str], None]) -> None:
    keyring("slurm/TOKEN", "from-the-keyring")
    assert of(tmp_path, "hpc-1", HPC).origin("TOKEN") == "keyring, service clusterjobs, user slurm/TOKEN"


def test_a_keyring_that_fails_is_no_source_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("keyring")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    with pytest.raises(CredentialError, match=r"\n  keyring: .*NoKeyringError: No recommended backend was available"):
        of(tmp_path, "local")["TOKEN"]


def test_without_keyring_the_extra_is_named() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pytest_clusterjobs.config.credentials import Keyring, Wanted\n"
        "print(Keyring(None).look(Wanted('A', ('local',))))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "keyring: pip install pytest-clusterjobs[keyring]\n"


# ---------------------------------------------------------------- 1Password


def test_an_op_reference_in_the_profile_is_read(tmp_path: Path, op: Path) -> None:
    secret = of(tmp_path, "hpc-1", HPC)["TOKEN"]
    assert (secret.reveal(), secret.origin) == ("from-the-vault", "1Password, op://team/hpc item/token")


@pytest.mark.usefixtures("op")
def test_an_op_reference_in_a_variable_or_dotenv_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file(tmp_path, "CLUSTERJOBS_LOCAL_TOKEN=op://team/hpc item/token")
    assert of(tmp_path, "local")["TOKEN"].reveal() == "from-the-vault"
    monkeypatch.setenv("CLUSTERJOBS_LOCAL_OTHER", "op://team/hpc item/nothing")
    with pytest.raises(CredentialError, match="from variable CLUSTERJOBS_LOCAL_OTHER: op read op://team/hpc item/noth"):
        of(tmp_path, "local")["OTHER"]


@pytest.mark.usefixtures("op")
def test_an_op_that_refuses_is_told_with_its_last_line_and_the_variable(tmp_path: Path) -> None:
    found = of(tmp_path, "hpc-1", HPC.replace("item/token", "item/other"))
    for call in (found.__getitem__, found.get):
        with pytest.raises(CredentialError) as caught:
            call("TOKEN")
        assert str(caught.value) == (
            "no credential TOKEN for 'hpc-1' from 1Password, op://team/hpc item/other: "
            "op read op://team/hpc item/other: ended with 1: [ERROR] could not read secret op://team/hpc item/other; "
            "or set CLUSTERJOBS_HPC_1_TOKEN"
        )


def test_without_op_the_next_source_counts(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    program("show", "#!/bin/sh\necho shown")
    text = "profiles: {hpc: {backend: slurm, credentials: {A: op://v/i/f}, credential_command: [show]}}"
    assert of(tmp_path, "hpc", text).origin("A") == "command show"


# ---------------------------------------------------------------- commands


def test_a_command_gives_one_of_them(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    program("pass", '#!/bin/sh\nprintf "%s\\n" "<$1|$2>"')
    text = "profiles: {hpc: {backend: slurm, credentials: {A: [pass, show, a b; c]}}}"
    secret = of(tmp_path, "hpc", text)["A"]
    assert (secret.reveal(), secret.origin) == ("<show|a b; c>", "command pass")


def test_a_command_gives_all_of_them(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    program("vault", '#!/bin/sh\nprintf "%s\\n" "$*" two')
    text = """
defaults: {credential_command: [vault, "-f={key}", "{profile}/{key}", "{x}"]}
profiles: {hpc: {backend: slurm}}
"""
    assert of(tmp_path, "hpc", text)["API_KEY"].reveal() == "-f=API_KEY hpc/API_KEY {x}\ntwo"


def test_a_program_with_a_path_is_beside_the_file(
    tmp_path: Path, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("tell", "#!/bin/sh\necho told-it")
    monkeypatch.chdir("/")
    for text in ("credentials: {A: [bin/tell]}", "credential_command: [./bin/tell]"):
        assert of(tmp_path, "local", f"defaults: {{{text}}}")["A"].reveal() == "told-it"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "show: ended with 3; or set CLUSTERJOBS_LOCAL_A"),
        ("echo first >&2; echo why >&2; exit 1", "show: ended with 1: why; or set"),
        ("exit 0", "show: printed nothing; or set"),
    ],
)
def test_a_command_that_does_not_give_it_is_told(
    tmp_path: Path, program: Callable[[str, str], Path], script: str, said: str
) -> None:
    program("show", f"#!/bin/sh\n{script}")
    with pytest.raises(CredentialError) as caught:
        of(tmp_path, "local", "defaults: {credential_command: [show]}")["A"]
    assert f"no credential A for 'local' from command show: {said}" in str(caught.value)


def test_a_command_that_hangs_is_killed(
    tmp_path: Path, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("show", "#!/bin/sh\nexec /bin/sleep 600")
    monkeypatch.setattr(credentials, "TIMEOUT_S", 0.5)
    begin = time.monotonic()
    with pytest.raises(CredentialError, match=r"show did not end within 0\.5 s and was killed; or set CLUSTERJOBS_LOC"):
        of(tmp_path, "local", "defaults: {credential_command: [show]}")["A"]
    assert time.monotonic() - begin < 30


# ---------------------------------------------------------------- order, and what is missing


@pytest.mark.usefixtures("op")
def test_each_source_lies_above_the_next(
    tmp_path: Path,
    program: Callable[[str, str], Path],
    keyring: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program("show", "#!/bin/sh\necho from-a-command")
    text = "profiles: {hpc-1: {backend: slurm, credential_command: [show]}}"
    seen = [of(tmp_path, "hpc-1", text)["TOKEN"].reveal()]
    text = (
        "profiles: {hpc-1: {backend: slurm, credentials: {TOKEN: op://team/hpc item/token}, credential_command: [x]}}"
    )
    seen.append(of(tmp_path, "hpc-1", text)["TOKEN"].reveal())
    keyring("hpc-1/TOKEN", "from-the-keyring")
    seen.append(of(tmp_path, "hpc-1")["TOKEN"].reveal())
    env_file(tmp_path, "CLUSTERJOBS_HPC_1_TOKEN=from-a-file")
    seen.append(of(tmp_path, "hpc-1")["TOKEN"].reveal())
    monkeypatch.setenv("CLUSTERJOBS_HPC_1_TOKEN", "from-a-variable")
    seen.append(of(tmp_path, "hpc-1")["TOKEN"].reveal())
    assert seen == ["from-a-command", "from-the-vault", "from-the-keyring", "from-a-file", "from-a-variable"]


def test_a_missing_one_names_the_variable_and_says_of_each_source_why(tmp_path: Path) -> None:
    found = of(tmp_path, "hpc-1", HPC)
    with pytest.raises(CredentialError) as caught:
        found["TOKEN"]
    lines = str(caught.value).splitlines()
    keyring = lines.pop(3)
    assert lines == [
        "no credential TOKEN for 'hpc-1': set CLUSTERJOBS_HPC_1_TOKEN",
        "  variable CLUSTERJOBS_HPC_1_TOKEN or CLUSTERJOBS_SLURM_TOKEN: not set",
        f"  {tmp_path}/.env: there is no such file",
        "  1Password: op not found on PATH, and the profile has op://team/hpc item/token",
        "  command: the profile has no credential_command",
    ]
    assert keyring.startswith("  keyring: ")
    assert is_infrastructure(caught.value)
    assert found.get("TOKEN") is None


def test_a_profile_that_declares_some_has_no_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'hpc-1' has no credential 'TOKNE'; known: TOKEN — did you mean 'TOKEN'\\?"):
        of(tmp_path, "hpc-1", HPC)["TOKNE"]


@pytest.mark.parametrize("key", ["token", "A-B", "1A", "", "A\n"])
def test_what_is_no_name_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="no credential can be named"):
        of(tmp_path, "local").get(key)


def test_no_repr_and_no_error_tells_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERJOBS_LOCAL_TOKEN", "never-to-be-told")
    found = of(tmp_path, "local")
    told = f"{found!r} {found['TOKEN']!r} {found['TOKEN']} {vars(found)} {ClusterJobsError('never-to-be-told')}"
    assert "never-to-be-told" not in told
    assert "variable CLUSTERJOBS_LOCAL_TOKEN" in told


def test_a_value_too_short_to_be_redacted_is_warned_of_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLUSTERJOBS_LOCAL_PIN", "97531")
    with caplog.at_level(logging.WARNING):
        assert of(tmp_path, "local")["PIN"].reveal() == "97531"
    assert "the credential PIN of local has fewer than 6 characters" in caplog.text
    assert "97531" not in caplog.text


def test_a_job_inherits_neither_credentials_nor_the_key_to_the_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLUSTERJOBS_LOCAL_TOKEN", "OP_SERVICE_ACCOUNT_TOKEN", "OP_CONNECT_TOKEN", "OP_SESSION_team"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("OPTIONAL", "kept")
    inherited = inherited_environment(True)
    assert inherited["OPTIONAL"] == "kept"
    assert not [name for name in inherited if name.startswith(("OP_", "CLUSTERJOBS_"))]


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    "section",
    [
        "credentials: s3cret",
        "credentials: [s3cret]",
        "credentials: {TOKEN: s3cret}",
        "credentials: {TOKEN: {value: s3cret}}",
        "credentials: {TOKEN: 's3cret op://a/b/c'}",
        "credentials: {TOKEN: 'op://s3cret'}",
        "credentials: {TOKEN: []}",
        "credentials: {TOKEN: [1, s3cret]}",
        "credentials: {token: s3cret}",
        "credential_command: pass show s3cret",
        "credential_command: [pass, {s3cret: 1}]",
    ],
)
def test_no_value_is_taken_from_the_file_and_none_is_quoted(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(tmp_path, "local", f"defaults:\n  {section}\n")
    assert f"{tmp_path}/clusterjobs.yaml:2: defaults.{section.partition(':')[0]}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_credentials_of_several_layers_are_merged_name_by_name(tmp_path: Path) -> None:
    text = """
defaults: {credentials: {A: op://v/i/a, B: }}
profiles:
  site: {backend: slurm, credentials: {B: [show, b], C: }}
  short: {extends: site, credentials: {C: op://v/i/c}}
"""
    configured = Configured(str(tmp_path))
    (tmp_path / "clusterjobs.yaml").write_text(text)
    assert configured.credentials("short").keys == ("A", "B", "C")
    settings = configured.effective("short")
    assert [settings[f"credentials.{key}"].value for key in "ABC"] == ["op://v/i/a", ["show", "b"], "op://v/i/c"]
    assert configured.credentials("local").keys == ("A", "B")


def test_a_table_in_toml_has_an_empty_text_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.clusterjobs.defaults.credentials]\nTOKEN = ""\n')
    assert find(str(tmp_path)) == [str(tmp_path / "pyproject.toml")]
    assert of(tmp_path, "local").get("TOKEN") is None


# ---------------------------------------------------------------- clusterjobs check, clusterjobs config


def shell(folder: Path, *argv: str) -> str:
    """Run ``clusterjobs`` in a folder, in a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pytest_clusterjobs.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.usefixtures("op")
def test_check_shows_the_source_and_never_the_value(tmp_path: Path, op: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clusterjobs.yaml").write_text(
        "profiles: {here: {backend: local, credentials: {A: , B: op://team/hpc item/token, C: }}}"
    )
    monkeypatch.setenv("CLUSTERJOBS_HERE_A", "never-to-be-told")
    monkeypatch.setenv("COLUMNS", "200")
    printed = shell(tmp_path, "check", "here")
    rows = [line.rstrip().split(maxsplit=2) for line in printed.splitlines() if line.startswith("here ")][1:]
    assert rows == [
        ["here", "A", "variable CLUSTERJOBS_HERE_A"],
        ["here", "B", "1Password, op://team/hpc item/token"],
        ["here", "C", "no credential C for 'here': set CLUSTERJOBS_HERE_C"],
    ]
    (row,) = json.loads(shell(tmp_path, "check", "--json", "here"))
    assert [(each["key"], each["source"]) for each in row["credentials"]] == [
        ("A", "variable CLUSTERJOBS_HERE_A"), ("B", "1Password, op://team/hpc item/token"), ("C", None),
    ]  # fmt: skip
    assert row["credentials"][2]["problem"].startswith("no credential C for 'here': set CLUSTERJOBS_HERE_C\n")
    assert "never-to-be-told" not in printed
    assert not op.exists()  # nobody was asked for a fingerprint


def test_config_show_tells_references_and_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clusterjobs.yaml").write_text("defaults: {credentials: {A: , B: op://v/i/f}}")
    monkeypatch.setenv("CLUSTERJOBS_LOCAL_A", "never-to-be-told")
    printed = shell(tmp_path, "config", "show", "local")
    shown = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert shown["credentials.A"] == "(variable, .env or keyring)"
    assert shown["credentials.B"] == "op://v/i/f"
    assert "never-to-be-told" not in printed
