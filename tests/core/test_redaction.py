"""What is known to be secret is in no text, however it was written, and a `Secret` shows itself to nobody."""

from __future__ import annotations

import base64
import copy
import html
import json
import logging
import pickle
import shlex
import urllib.parse

import pytest

from pytest_clusterjobs.core.errors import BackendError, ConfigError, JobFailed
from pytest_clusterjobs.core.redaction import MASK, Redactor, Secret, redact, redact_all

TOKEN = 'it\'s <k3y>/é & "more"\\t'  # noqa: S105 - of nobody
KEY = "-----BEGIN KEY-----\nMIIEowIBAAKCAQEAxyz\nQ0FURQ==abcdefgh\n-----END KEY-----\n"


@pytest.fixture
def redactor() -> Redactor:
    made = Redactor()
    made.learn(TOKEN)
    return made


@pytest.mark.parametrize(
    "written",
    [
        TOKEN,
        json.dumps(TOKEN),
        repr(TOKEN),
        shlex.quote(TOKEN),
        json.dumps(TOKEN, ensure_ascii=False),
        ascii(TOKEN),
        repr(TOKEN.encode()),
        urllib.parse.quote(TOKEN, safe=""),
        urllib.parse.quote(f"/path/{TOKEN}/"),
        urllib.parse.urlencode({"token": TOKEN}),
        html.escape(TOKEN),
        base64.b64encode(TOKEN.encode()).decode(),
        base64.urlsafe_b64encode(TOKEN.encode()).decode(),
        repr({"a": [TOKEN, 1]}),
    ],
)
def test_a_secret_goes_however_it_is_written(redactor: Redactor, written: str) -> None:
    told = redactor.redact(f"before {written} after")
    assert MASK in told
    assert "k3y" not in told
    assert not any(encode(TOKEN.encode()).decode() in told for encode in (base64.b64encode, base64.urlsafe_b64encode))
    assert told.startswith("before ")
    assert told.endswith(" after")


def test_without_secrets_everything_stays() -> None:
    empty = Redactor()
    assert not empty
    assert (empty.redact("text..."), empty.redact_bytes(b"text"), empty.is_in(b"text")) == ("text...", b"text", False)


def test_what_is_too_short_stays() -> None:
    redactor = Redactor()
    redactor.learn("12345")
    assert redactor.redact("12345") == "12345"
    redactor.learn("123456")
    assert redactor.redact("0123456 12345") == f"0{MASK} 12345"


def test_the_longer_of_two_secrets_goes_whole() -> None:
    redactor = Redactor()
    redactor.learn("secret")
    redactor.learn("secret-and-more")
    assert redactor.redact("secret-and-more, secret") == f"{MASK}, {MASK}"


def test_each_line_of_a_secret_is_one(redactor: Redactor) -> None:
    redactor.learn(KEY)
    indented = "\n".join("  " + line for line in KEY.splitlines())
    for text in (KEY, indented, repr(KEY), KEY.replace("\n", "\r\n")):
        told = redactor.redact(text)
        assert not any(line in told for line in KEY.splitlines())


def test_what_is_left_around_an_ellipsis_goes_too() -> None:
    """pytest shows the beginning and the end of a long value, with three dots between."""
    redactor = Redactor()
    long = "".join(chr(ord("A") + number * 7 % 26) + str(number) for number in range(200))
    redactor.learn(long)
    told = redactor.redact(f"token = 'Bearer {long[:100]}...{long[-90:]}' and {long[:8]}... then...")
    assert told == "token = 'Bearer ...' and ... then..."
    assert redactor.redact(f"{long[:5]}...") == f"{long[:5]}..."
    assert redactor.redact(f"{long[3:60]}...{long[:9]}") == f"{long[3:60]}...{long[:9]}"  # begins and ends no secret


def test_bytes_and_nested_values(redactor: Redactor) -> None:
    data = pickle.dumps(["x", TOKEN])
    assert redactor.is_in(data)
    assert not redactor.is_in(redactor.redact_bytes(data))
    told = redactor.redact_all({"a": [TOKEN, ("b", TOKEN)], TOKEN: 1, "n": None})
    assert told == {"a": [MASK, ("b", MASK)], MASK: 1, "n": None}


def test_a_text_that_is_no_utf8_is_a_secret_too() -> None:
    redactor = Redactor()
    redactor.learn(b"p\xffssword".decode(errors="surrogateescape"))
    assert redactor.redact_bytes(b"a p\xffssword") == b"a ***"


# ---------------------------------------------------------------- Secret


def test_a_secret_shows_itself_to_nobody_but_who_asks() -> None:
    secret = Secret("of-nobody-4711", "TOKEN", "variable X")
    assert secret.reveal() == "of-nobody-4711"
    assert f"{secret:>5} {secret!r} {[secret]} %s" % secret == (
        "  *** <Secret TOKEN from variable X> [<Secret TOKEN from variable X>] ***"
    )
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        "a" + secret  # type: ignore[operator]


def test_secrets_are_compared_by_their_texts_and_with_nothing_else() -> None:
    secret = Secret("of-nobody-4711", "A")
    assert secret == Secret("of-nobody-4711", "B")
    assert secret != Secret("of-nobody-4712", "A")
    assert secret != "of-nobody-4711"  # noqa: S105 - of nobody
    assert len({secret, Secret("of-nobody-4711")}) == 1


def test_a_secret_is_not_pickled_but_copied() -> None:
    secret = Secret("of-nobody-4711", "TOKEN")
    with pytest.raises(TypeError, match=r"does not travel in files .* env=\{'TOKEN': secret\}"):
        pickle.dumps(secret)
    assert copy.deepcopy({"a": secret})["a"] is secret


# ---------------------------------------------------------------- errors and logs


def test_errors_of_ours_say_no_secret() -> None:
    Secret("of-nobody-4713")
    for error in (
        ConfigError("it is of-nobody-4713"),
        BackendError("it", "slurm", "sbatch of-nobody-4713", "of-nobody-4713"),
        JobFailed("it is", "the tail: of-nobody-4713"),
    ):
        assert MASK in str(error)
        assert "4713" not in str(error) + repr(error)


def test_no_log_has_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    Secret("of-nobody-4714")
    for name in ("pytest_clusterjobs", "pytest_clusterjobs.child", "another.package"):
        log = logging.getLogger(name)
        log.warning("plain %s, %d%%", "of-nobody-4714", 50)
        try:
            raise ValueError("of-nobody-4714")
        except ValueError:
            log.exception("with traceback")
    assert caplog.text.count("plain ***, 50%") == 3
    assert caplog.text.count("ValueError: ***") == 3
    assert "4714" not in caplog.text


def test_a_wrong_format_stays_the_callers_trouble(caplog: pytest.LogCaptureFixture) -> None:
    Secret("of-nobody-4715")
    record = logging.getLogger("x").makeRecord("x", logging.INFO, __file__, 1, "%d", ("text",), None)
    assert (record.msg, record.args) == ("%d", ("text",))


def test_what_this_process_knows_is_redacted_by_the_modules_functions() -> None:
    Secret("of-nobody-4716")
    assert redact("a of-nobody-4716") == "a ***"
    assert redact_all(["of-nobody-4716"]) == ["***"]
