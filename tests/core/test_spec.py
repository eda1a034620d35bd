"""`make_spec`: what `@cluster` takes, and what it says to what it does not take."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
from typing import Any

import pytest

from pytest_clusterjobs.core.errors import SpecError, UnknownArgumentError
from pytest_clusterjobs.core.redaction import Secret
from pytest_clusterjobs.core.spec import KEEP_POLICIES, SPEC_ARGUMENTS, JobSpec, lay_over, make_spec
from pytest_clusterjobs.core.units import DURATION_FORMS, MEMORY_FORMS


class Index:
    """An integer that is no int, as numpy's are."""

    def __index__(self) -> int:
        return 3


def refusal(**options: Any) -> str:
    with pytest.raises(SpecError) as caught:
        make_spec(**options)
    return str(caught.value)


class TestForms:
    def test_nothing_given_is_one_core_and_the_schedulers_defaults(self) -> None:
        assert make_spec() == JobSpec()
        assert (JobSpec().cores, JobSpec().nodes, JobSpec().gpus) == (1, 1, 0)
        assert (JobSpec().memory_bytes, JobSpec().time_limit_s, JobSpec().partition) == (None, None, None)

    @pytest.mark.parametrize(
        ("given", "name", "value"),
        [
            ({"cores": 4}, "cores", 4),
            ({"cores": Index()}, "cores", 3),
            ({"memory": "1GB"}, "memory_bytes", 2**30),
            ({"memory": 5000}, "memory_bytes", 5000),
            ({"time": "00:05:00"}, "time_limit_s", 300),
            ({"time": 90}, "time_limit_s", 90),
            ({"gpus": 0}, "gpus", 0),
            ({"gpus": 2}, "gpus", 2),
            ({"nodes": 3}, "nodes", 3),
            ({"partition": "long"}, "partition", "long"),
            ({"partition": "long,short"}, "partition", "long,short"),
            ({"queue": "long"}, "partition", "long"),
            ({"queue": "long", "partition": "long"}, "partition", "long"),
            ({"account": "my-project_1"}, "account", "my-project_1"),
            ({"qos": "high"}, "qos", "high"),
            ({"constraint": "[a*2&b]|(c!d)"}, "constraint", "[a*2&b]|(c!d)"),
            ({"constraint": "mem>1000&&(tmp>=5||r1m<2.5)"}, "constraint", "mem>1000&&(tmp>=5||r1m<2.5)"),
            ({"env": {"A": "1", "_b": ""}}, "env", {"A": "1", "_b": ""}),
            ({"modules": "gcc/12.2"}, "modules", ("gcc/12.2",)),
            ({"modules": ["gcc/12.2", "openmpi"]}, "modules", ("gcc/12.2", "openmpi")),
            ({"prologue": "ulimit -c 0"}, "prologue", ("ulimit -c 0",)),
            ({"prologue": ["a", "b\nc"]}, "prologue", ("a", "b\nc")),
            ({"epilogue": ("date",)}, "epilogue", ("date",)),
            ({"extra_args": ["--reservation=x y"]}, "extra_args", ("--reservation=x y",)),
            ({"extra_directives": "--exclusive"}, "extra_directives", ("--exclusive",)),
            ({"name": "my job"}, "name", "my job"),
            ({"backend": "slurm"}, "backend", "slurm"),
            ({"parallel": True}, "parallel", True),
            ({"timeout": 1.5}, "timeout_s", 1.5),
            ({"timeout": "30m"}, "timeout_s", 1800),
            ({"queue_timeout": "1h"}, "queue_timeout_s", 3600),
            ({"inherit_env": False}, "inherit_env", False),
            *[({"keep": policy}, "keep", policy) for policy in KEEP_POLICIES],
        ],
    )
    def test_a_value_becomes_the_field_in_its_unit(self, given: dict[str, Any], name: str, value: object) -> None:
        assert getattr(make_spec(**given), name) == value

    def test_what_is_given_lies_over_the_base_and_none_leaves_it(self) -> None:
        base = make_spec(cores=2, memory="1GB", partition="short", env={"A": "1"})
        laid = make_spec(base, cores=4, partition=None, env=None)
        assert laid == dataclasses.replace(base, cores=4)
        assert base.cores == 2

    def test_the_arguments_are_those_of_the_signature(self) -> None:
        assert SPEC_ARGUMENTS[:3] == ("cores", "memory", "time")
        kinds = inspect.signature(make_spec).parameters
        assert set(SPEC_ARGUMENTS) == set(kinds) - {"base", "unknown"}


class TestRefusals:
    @pytest.mark.parametrize(
        ("typo", "meant"),
        [
            ("core", "cores"),
            ("mem", "memory"),
            ("walltime_limit", None),
            ("partion", "partition"),
            ("time_out", "timeout"),
            ("Cores", "cores"),
        ],
    )
    def test_an_unknown_argument_names_the_nearest_and_all_known(self, typo: str, meant: str | None) -> None:
        with pytest.raises(UnknownArgumentError) as caught:
            make_spec(**{typo: 1})
        text = str(caught.value)
        assert text.startswith(f"no argument {typo!r} for a cluster job")
        assert ("did you mean" in text) == (meant is not None)
        assert meant is None or f"did you mean {meant!r}?" in text
        assert all(name in text for name in SPEC_ARGUMENTS)

    def test_an_unknown_argument_is_a_type_error_and_a_value_error(self) -> None:
        assert issubclass(UnknownArgumentError, TypeError)
        assert issubclass(SpecError, ValueError)

    @pytest.mark.parametrize("value", [1.0, "1", "many", True, False, [1], 2.5])
    @pytest.mark.parametrize(("name", "least"), [("cores", 1), ("gpus", 0), ("nodes", 1)])
    def test_a_count_is_a_whole_number(self, name: str, least: int, value: object) -> None:
        assert refusal(**{name: value}) == f"{name}={value!r} must be a whole number, {least} or more"

    @pytest.mark.parametrize(("name", "value", "least"), [("cores", 0, 1), ("gpus", -1, 0), ("nodes", -3, 1)])
    def test_a_count_is_not_below_the_least(self, name: str, value: int, least: int) -> None:
        assert refusal(**{name: value}) == f"{name}={value!r} must be {least} or more"

    def test_quantities_are_refused_in_the_words_of_their_unit(self) -> None:
        assert refusal(memory="lots") == f"memory='lots' is no memory size; write {MEMORY_FORMS}"
        assert refusal(time="soon") == f"time='soon' is no duration; write {DURATION_FORMS}"
        assert refusal(timeout="soon") == f"timeout='soon' is no duration; write {DURATION_FORMS}"
        assert refusal(queue_timeout=0) == f"queue_timeout=0 must be more than zero; write {DURATION_FORMS}"

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "two words",
            "a\nb",
            "a\n#SBATCH --uid=0",
            "$HOME",
            "`id`",
            "a;b",
            "a'b",
            'a"b',
            "-w",
            "a\\b",
            "a\0b",
            3,
            ["a"],
        ],
    )
    @pytest.mark.parametrize("name", ["partition", "queue", "account", "qos", "backend"])
    def test_a_name_is_one_word_that_no_shell_interprets(self, name: str, value: object) -> None:
        text = refusal(**{name: value})
        assert text.startswith(f"{name}={value!r} must be one word")

    @pytest.mark.parametrize("value", ["", "a b", "a\nb", "$(id)", "a;b", "a'b", "a>/x", "a>", "<(id)", "a>>b", "a<>b"])
    def test_a_constraint_keeps_its_language_and_no_more(self, value: str) -> None:
        assert refusal(constraint=value).startswith(f"constraint={value!r} must be one word")

    def test_partition_and_queue_are_one_thing(self) -> None:
        text = refusal(partition="a", queue="b")
        assert text == "partition='a' and queue='b' are two names of one thing; give one of them"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("A=1", "env='A=1' must be a mapping of names to texts"),
            ([("A", "1")], "env=[('A', '1')] must be a mapping of names to texts"),
            ({"A B": "1"}, "env has a name 'A B' that is no environment variable: letters, digits and _ only"),
            ({"1A": "1"}, "env has a name '1A' that is no environment variable: letters, digits and _ only"),
            ({"A\nB": "1"}, "env has a name 'A\\nB' that is no environment variable: letters, digits and _ only"),
            ({1: "1"}, "env has a name 1 that is no environment variable: letters, digits and _ only"),
            ({"A": 1}, "env['A'] must be a text without NUL characters, not of type int"),
            ({"A": "x\0y"}, "env['A'] must be a text without NUL characters, not one with a NUL character"),
        ],
    )
    def test_the_environment_is_a_mapping_of_names_to_texts(self, value: object, text: str) -> None:
        assert refusal(env=value) == text

    def test_a_secret_becomes_a_value_of_the_environment(self) -> None:
        spec = make_spec(env={"TOKEN": Secret("of-nobody-0815", "TOKEN"), "A": "1"})
        assert spec.env == {"TOKEN": "of-nobody-0815", "A": "1"}
        assert "0815" not in f"{spec} {spec.to_dict()}" + refusal(env={"TOKEN": Secret("of-nobody-0815\0")})

    @pytest.mark.parametrize("name", ["prologue", "epilogue", "extra_args", "extra_directives"])
    def test_a_secret_in_the_script_or_on_the_command_line_is_refused(self, name: str) -> None:
        secret = Secret("of-nobody-0816")
        said = refusal(**{name: ["fine", f"--token={secret.reveal()}"]})
        assert said.startswith(f"{name} has a secret in it, which the job's script would show; give it in env")

    def test_a_value_of_the_environment_is_in_no_message_and_no_record(self) -> None:
        assert "hunter2" not in refusal(env={"TOKEN": "x\0hunter2"})
        spec = make_spec(env={"TOKEN": "hunter2"})
        assert spec.to_dict()["env"] == ["TOKEN"]
        assert "hunter2" not in repr(spec)

    @pytest.mark.parametrize("name", ["prologue", "epilogue"])
    @pytest.mark.parametrize("value", [3, ["a", 3], "a\0b", None.__class__, [b"x"]])
    def test_shell_lines_are_texts(self, name: str, value: object) -> None:
        assert refusal(**{name: value}).startswith(f"{name}={value!r} must be a text or a sequence of texts")

    @pytest.mark.parametrize("name", ["extra_args", "extra_directives"])
    @pytest.mark.parametrize("line", ["", "  ", "a\nb", "a\rb", "\x1b[0m"])
    def test_an_extra_is_one_line(self, name: str, line: str) -> None:
        assert refusal(**{name: [line]}) == f"{name} has {line!r}: each must be one line with something in it"

    def test_a_directive_comes_without_the_schedulers_prefix(self) -> None:
        text = refusal(extra_directives="#SBATCH --exclusive")
        assert "write it without the scheduler's prefix, e.g. '--exclusive'" in text

    @pytest.mark.parametrize("value", ["gcc;id", "-f", "a b", "", 3])
    def test_a_module_is_one_word(self, value: object) -> None:
        assert refusal(modules=[value]).startswith("modules=")

    @pytest.mark.parametrize("value", ["", " ", 3])
    def test_a_name_has_a_character(self, value: object) -> None:
        assert refusal(name=value) == f"name={value!r} must be a text with at least one character"

    @pytest.mark.parametrize("name", ["parallel", "inherit_env"])
    @pytest.mark.parametrize("value", [1, "yes", "True", []])
    def test_a_switch_is_true_or_false(self, name: str, value: object) -> None:
        assert refusal(**{name: value}) == f"{name}={value!r} must be True or False"

    @pytest.mark.parametrize(("value", "hint"), [("allways", " — did you mean 'always'?"), ("x", ""), (True, "")])
    def test_a_policy_is_one_of_three(self, value: object, hint: str) -> None:
        assert refusal(keep=value) == f"keep={value!r} must be one of failed, always, never{hint}"


class TestJobSpec:
    def test_it_is_frozen_hashable_and_travels(self) -> None:
        spec = make_spec(cores=2, env={"A": "1"}, modules=["gcc"])
        with pytest.raises(dataclasses.FrozenInstanceError):
            spec.cores = 3  # type: ignore[misc]
        assert {spec: 1}[make_spec(cores=2, env={"A": "1"}, modules=["gcc"])] == 1
        assert pickle.loads(pickle.dumps(spec)) == spec

    def test_records_have_what_was_asked_for_and_no_defaults(self) -> None:
        assert JobSpec().to_dict() == {"cores": 1}
        assert make_spec(memory="1GB", queue="long").to_dict() == {
            "cores": 1,
            "memory_bytes": 2**30,
            "partition": "long",
        }

    def test_every_quantity_carries_its_unit(self) -> None:
        names = [item.name for item in dataclasses.fields(JobSpec)]
        assert not [name for name in names if re.fullmatch(r"(memory|time|timeout|queue_timeout|time_limit)", name)]


@pytest.mark.parametrize(
    ("below", "own", "expected"),
    [
        ({"cores": 4}, {}, 4),
        ({"cores": 4}, {"cores": 2}, 2),
        ({"cores": 4}, {"cores": 1}, 1),  # a default's value that was written is a wish
    ],
)
def test_what_was_given_lies_over_defaults_and_what_was_not_does_not(
    below: dict[str, int], own: dict[str, int], expected: int
) -> None:
    assert lay_over(make_spec(None, **below), make_spec(None, **own)).cores == expected


def test_environments_of_two_layers_are_merged() -> None:
    merged = lay_over(make_spec(env={"A": "1", "B": "1"}), make_spec(env={"B": "2"}))
    assert merged.env == {"A": "1", "B": "2"}


def test_what_was_given_is_told_by_no_record_and_changes_no_equality() -> None:
    assert make_spec(cores=1) == make_spec()
    assert "given" not in make_spec(cores=1, qos="high").to_dict()
