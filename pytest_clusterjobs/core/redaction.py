"""Secrets in memory, and texts without them: what is known to be secret is taken out of all that is shown or left.

A `Secret` shows itself to nobody but who calls ``reveal()``. Its text is then known here, in this process alone and
until its end, and `redact` puts ``***`` in its place: as it is, and as JSON, Python, a shell or a URL would write it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

#: What stands in the place of a secret.
MASK = "***"
#: Shorter texts are left alone: they are in too many words that are no secrets.
SHORTEST = 6

_CUT = "..."


class Redactor:
    """Texts that must not be shown. Any thread may use it."""

    def __init__(self) -> None:
        self._forms: tuple[str, ...] = ()
        self._texts: re.Pattern[str] | None = None
        self._bytes: re.Pattern[bytes] | None = None
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        """True once it knows a secret."""
        return self._texts is not None

    def learn(self, text: str) -> None:
        """Take a secret in. Of one with several lines each line is a secret too; what is too short is left out."""
        with self._lock:
            known = {*self._forms, *(form for form in _forms(text) if len(form) >= SHORTEST)}
            if known and len(known) > len(self._forms):
                # The longest first: one secret may be the beginning of another.
                self._forms = tuple(sorted(known, key=len, reverse=True))
                self._bytes = re.compile(b"|".join(re.escape(_encoded(form)) for form in self._forms))
                self._texts = re.compile("|".join(map(re.escape, self._forms)))

    def redact(self, text: str) -> str:
        """Give a text with ``***`` for each secret, and for what is left of one that ``...`` cuts short."""
        if self._texts is None:
            return text
        text = self._texts.sub(MASK, text)
        return self._without_ends(text) if _CUT in text else text

    def redact_bytes(self, data: bytes) -> bytes:
        """Give data with ``***`` for each secret."""
        return data if self._bytes is None else self._bytes.sub(MASK.encode(), data)

    def is_in(self, data: Any) -> bool:
        """Tell whether bytes, or a file that is mapped into memory, hold a secret."""
        return self._bytes is not None and self._bytes.search(data) is not None

    def redact_all(self, value: Any) -> Any:
        """Give a value of JSON types, or of tuples of them, with every text redacted."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Mapping):
            return {self.redact_all(key): self.redact_all(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(map(self.redact_all, value))
        return value

    def _without_ends(self, text: str) -> str:
        """Take out the beginnings and ends of secrets around ``...``, where pytest cuts what is long."""
        parts = text.split(_CUT)
        for index, part in enumerate(parts):
            if index + 1 < len(parts):
                part = part[: len(part) - self._overlap(part, at_end=True)]
            if index > 0:
                part = part[self._overlap(part, at_end=False) :]
            parts[index] = part
        return _CUT.join(parts)

    def _overlap(self, part: str, *, at_end: bool) -> int:
        """Give how many characters at the end of a text begin a secret, or at its beginning end one."""
        edge = part[-SHORTEST:] if at_end else part[:SHORTEST]
        longest = 0
        for form in self._forms if len(edge) == SHORTEST else ():
            place = form.find(edge)
            while place >= 0:
                piece = form[: place + SHORTEST] if at_end else form[place:]
                if part.endswith(piece) if at_end else part.startswith(piece):
                    longest = max(longest, len(piece))
                place = form.find(edge, place + 1)
        return longest


def _forms(text: str) -> Iterator[str]:
    """Give a secret as it is and as others write it, and each of its lines so."""
    import base64
    import html
    import json
    import shlex
    import urllib.parse

    for each in dict.fromkeys([text, text.strip(), *map(str.strip, text.splitlines())]):
        yield each
        yield json.dumps(each)[1:-1]
        yield json.dumps(each, ensure_ascii=False)[1:-1]
        yield repr(each)[1:-1]
        yield ascii(each)[1:-1]
        yield repr(_encoded(each))[2:-1]
        yield shlex.quote(each).strip("'")
        yield urllib.parse.quote(each, safe="", errors="surrogateescape")
        yield urllib.parse.quote(each, errors="surrogateescape")  # in a path, which slashes are left in
        yield urllib.parse.quote_plus(each, errors="surrogateescape")  # in a query or a form
        yield html.escape(each)
    yield base64.b64encode(_encoded(text)).decode()
    yield base64.urlsafe_b64encode(_encoded(text)).decode()


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # what came from a variable may be no UTF-8


_known = Redactor()


def redact(text: str) -> str:
    """Give a text with ``***`` for each secret that this process knows."""
    return _known.redact(text)


def redact_all(value: Any) -> Any:
    """Give a value of JSON types, or of tuples of them, with every text redacted."""
    return _known.redact_all(value)


def known() -> Redactor:
    """Give what this process knows to be secret."""
    return _known


class Secret:
    """A text that is shown to nobody: its ``str`` is ``***`` and its ``repr`` has name and origin alone.

    It is no ``str``, so that no f-string, no ``json.dumps`` and no log call gives it away, and it cannot be pickled: a
    pickle is a file, and a job's arguments are one. A job gets it in ``env``, deliberately.

    Args:
        text: What must not be shown. It is redacted from now on, everywhere.
        name: What it is called.
        origin: Where it comes from.
    """

    __slots__ = ("_text", "name", "origin")

    def __init__(self, text: str, name: str = "", origin: str = "") -> None:
        self._text = text
        #: What it is called.
        self.name = name
        #: Where it comes from, for people.
        self.origin = origin
        _known.learn(text)
        guard_logging()

    def reveal(self) -> str:
        """Give the text itself."""
        return self._text

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __repr__(self) -> str:
        return f"<Secret {self.name} from {self.origin}>" if self.name else "<Secret>"

    def __eq__(self, other: object) -> bool:
        import hmac

        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_encoded(self._text), _encoded(other._text))

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the secret {self.name} does not travel in files such as a job's arguments; give it to the job as a "
            f"variable: env={{{self.name or 'NAME'!r}: secret}}"
        )


_is_guarding = threading.Event()


def guard_logging() -> None:
    """Have every log record of this process redacted when it is made, whoever logs and wherever it goes. Idempotent.

    A filter on a logger sees neither its children's records nor those of other packages.
    """
    import logging

    if _is_guarding.is_set():
        return
    _is_guarding.set()
    make = logging.getLogRecordFactory()

    def make_redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # logging reports a wrong format itself, later
            return record
        told = redact(message)
        if told != message:
            record.msg, record.args = told, ()
        if record.exc_info and record.exc_info[0] is not None:
            text = logging.Formatter().formatException(record.exc_info)
            told = redact(text)
            record.exc_text = told if told != text else None
        return record

    logging.setLogRecordFactory(make_redacted)
