"""Files named ``.env``: lines ``CLUSTERJOBS_...=value``. Other names in it are other programs', and not looked at.

No message quotes a line.
"""

from __future__ import annotations

import os
import re
import stat

from pytest_clusterjobs.core.errors import ConfigError

FILE_NAME = ".env"

_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>CLUSTERJOBS_\w+)\s*=(?P<value>.*)")
_QUOTED = re.compile(r"""(?P<quote>["'])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)\s*(?:#.*)?""")
_ESCAPED = {"n": "\n", "t": "\t"}


def read(path: str) -> dict[str, str] | None:
    """Give the values of our names; None without a file. A value may stand in quotes; in double ones ``\\n`` is a line.

    Raises:
        ConfigError: It has values of ours and somebody else owns it or may read it, or a line of ours is wrong.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            status = os.fstat(file.fileno())
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    found = {
        match["name"]: _value(match["value"].strip(), f"{path}:{number}: {match['name']}")
        for number, line in enumerate(lines, 1)
        if (match := _LINE.fullmatch(line))
    }
    if found and status.st_uid != os.geteuid():
        raise ConfigError(f"{path} holds credentials and belongs to uid {status.st_uid}; make one of your own")
    if found and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        raise ConfigError(f"{path} holds credentials and others may read or write it (mode {mode}); chmod 600 {path}")
    return found


def _value(text: str, where: str) -> str:
    if text[:1] in ("'", '"'):
        match = _QUOTED.fullmatch(text)
        if match is None:
            raise ConfigError(f"{where}: the quoted value must end in its line, with the quote that it begins with")
        if match["quote"] == '"':
            return re.sub(r"\\(.)", lambda escaped: _ESCAPED.get(escaped[1], escaped[1]), match["text"])
        return match["text"]
    return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].rstrip()
