"""What runs on the far machine: POSIX sh, sent on standard input, so that no word of it is on a command line there.

A login shell of any kind reads `BOOTSTRAP`, which has nothing in it that sh, csh and fish read differently. The rest is
between marks on both output streams: what a login prints before, and what is left of a broken connection, is known.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from pytest_clusterjobs.core.errors import CommandError, StoreError

#: The command line of every command.
BOOTSTRAP = "exec /bin/sh -c 'IFS= read -r s; eval \"$s\"'"
#: After this long, what was opened and does not end with its standard input is killed, in seconds.
GRACE_S = 2

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# sh reads a line byte by byte: a longer script is read by head, and so is one of several lines.
_LONGEST_LINE = 4000

# The session that sshd makes for a command is its process group too (session.c, do_exec_no_pty): its end is theirs.
_KILL = "kill -0 $$ && kill -9 -$$"
_WATCH = f"exec >&-; while read -r x; do :; done; {_KILL}"
_FIND = (
    'has() { case $1 in */*) [ -f "$1" ] && [ -x "$1" ]; return;; esac; set -f; IFS=:; '
    'for d in $PATH; do [ -f "${d:-.}/$1" ] && [ -x "${d:-.}/$1" ] && return; done; return 1; }; '
)
_ENGLISH = "umask 077; LC_ALL=C; export LC_ALL; "


def sent(script: str) -> tuple[bytes, bool]:
    """Give what goes to `BOOTSTRAP`, and whether nothing may follow before the script's first output.

    ``head`` may read more of a pipe than it was asked to.
    """
    data = encode(script)
    if len(data) <= _LONGEST_LINE and b"\n" not in data:
        return data + b"\n", False
    return b'eval "$(head -c %d)"\n' % len(data) + data, True


def encode(text: str) -> bytes:
    """Give the bytes of a word or a path, those included that are no UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def path(text: str) -> str:
    """Quote a path so that no program takes it for an option.

    Raises:
        StoreError: No file can have that name.
    """
    if "\0" in text or not text:
        raise StoreError(f"{text!r} cannot be a file's name")
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def framed(mark: str, script: str) -> str:
    """Run a script between marks; the end's has its exit code."""
    return f"{_begin(mark)}({script}); c=$?; {_end(mark)}"


def command(mark: str, argv: Sequence[str], stdin_bytes: int, env: Mapping[str, str] | None, cwd: str | None) -> str:
    """Run a command between marks; it is killed with its process group when standard input closes before its end."""
    start = f"{_FIND}{_setting(mark, env, cwd)}{_execute(argv, f'{mark}?')}"
    if not stdin_bytes:
        # A shell may say of the one who watches that it was killed: that is not for the command's standard error.
        watch = f"{{ {_WATCH}; }} <&3 2>/dev/null & w=$!"
        run = f"exec 3<&-; ({start}) </dev/null; c=$?; exec 4>&2 2>/dev/null; kill -9 $w; exec 2>&4; {_end(mark)}"
        return f"{_begin(mark)}exec 3<&0; {watch}; {run}"
    # The one who watches first feeds the command. It ends when sshd closes our standard input, which it does when the
    # shell that waits for both has ended.
    run = f"exec 3<&-; ({start}); c=$?; kill -9 $$; {_end(mark)}"
    return f"{_begin(mark)}exec 3<&0; {{ head -c {stdin_bytes}; {_WATCH}; }} <&3 2>/dev/null | {{ {run}; }}"


def channel(mark: str, argv: Sequence[str]) -> str:
    """Run a command on the session's own streams; a while after its standard input closes it is killed."""
    # The one who reads standard input says who it is, so that it ends with the command, whose exit code is then ours.
    feed = f"sh -c 'echo $PPID'; cat; exec >&-; sleep {GRACE_S}; {_KILL}"
    start = _FIND + _execute(argv, f"{argv[0]} not found on PATH")
    run = f"read -r w; exec 3<&-; ({start}) 2>&4 4>&-; c=$?; kill -9 $w; exit $c"
    return f"{_begin(mark)}exec 3<&0 4>&2 2>/dev/null; {{ {feed}; }} <&3 4>&- | {{ {run}; }}"


def make_directory(directory: str) -> str:
    """Make a directory; exit code 4 with its line of ``ls`` where it is somebody else's or none."""
    p = path(directory)
    return (
        f"{_ENGLISH}mkdir -p {p} || exit 1; "
        f"[ -d {p} ] && [ ! -L {p} ] && [ -O {p} ] || {{ ls -ldn {p}; exit 4; }}; chmod 700 {p}"
    )


def read(file: str, last_bytes: int | None) -> str:
    """Give a file, or its end."""
    return _ENGLISH + (f"cat {path(file)}" if last_bytes is None else f"tail -c {last_bytes} {path(file)}")


def read_first_line(file: str) -> str:
    """Give a file's first line."""
    return f"{_ENGLISH}head -n 1 {path(file)}"


def list_names(directory: str) -> str:
    """Give the names in a directory, each with a slash after it, which none can contain."""
    return (
        f"CDPATH= cd {path(directory)} 2>/dev/null || exit 0; "
        'for f in * .[!.]* ..?*; do if [ -e "$f" ] || [ -L "$f" ]; then printf \'%s/\' "$f"; fi; done'
    )


def remove(target: str) -> str:
    """Remove a file or a folder."""
    return f"rm -rf {path(target)}"


def receive(directory: str, nonce: str, place: str) -> str:
    """Unpack an archive from standard input in a folder of its own, then run its file ``end``, which moves the rest.

    Args:
        directory: Where that folder is made; it must be there.
        nonce: A word that nobody else has.
        place: The body of the function ``place NUMBER PATH`` that moves one.
    """
    t = path(f"{directory}/.clusterjobs-{nonce}")
    return (
        f't={t}; whole=; place() {{ {place}; }}; mkdir "$t" || exit; '
        '(CDPATH= cd "$t" && exec tar -xof -) && [ -f "$t/end" ] && . "$t/end" && [ -n "$whole" ]; '
        'c=$?; rm -rf "$t"; exit $c'
    )


def receive_files(directory: str, nonce: str) -> str:
    """Unpack files; one that is a folder's name is an error."""
    place = 'if [ -d "$2" ]; then echo "$2: Is a directory" >&2; return 1; fi; mv -f "$t/$1" "$2"'
    return _ENGLISH + receive(directory, nonce, place)


def receive_tree(directory: str, nonce: str) -> str:
    """Unpack files and folders; what is there by their names goes."""
    place = 'mkdir -p "${2%/*}" && if [ -d "$2" ] || [ -d "$t/$1" ]; then rm -rf "$2"; fi && mv -f "$t/$1" "$2"'
    return f"{_ENGLISH}mkdir -p {path(directory)} || exit; {receive(directory, nonce, place)}"


def moves(targets: Sequence[str]) -> bytes:
    """Write the file ``end`` of an archive: where its members go, by their numbers."""
    lines = [f"place {number} {path(target)} || return" for number, target in enumerate(targets)]
    return encode("\n".join([*lines, "whole=1\n"]))


def send(directory: str, names: Sequence[str]) -> str:
    """Pack those of the names that are there; an empty output where none is."""
    choose = 'if [ -e "$f" ] || [ -L "$f" ]; then set -- "$@" "$f"; fi'
    words = " ".join(shlex.quote(f"./{name}") for name in names)
    # GNU tar reads backslashes in names as C does, unless told not to; others know no such option.
    literal = "case $(tar --version 2>&1) in *GNU*) u=--no-unquote;; esac; " if "\\" in words else ""
    return (
        f"{_ENGLISH}[ -d {path(directory)} ] || exit 0; CDPATH= cd {path(directory)} || exit; u=; set --; "
        f'for f in {words}; do {choose}; done; [ $# -gt 0 ] || exit 0; {literal}tar $u -cf - "$@"'
    )


def _begin(mark: str) -> str:
    return f"printf '%s\\n' '{mark}<'; printf '%s\\n' '{mark}<' >&2; "


def _end(mark: str) -> str:
    return f"printf '%s>%s\\n' {mark} $c; printf '%s>%s\\n' {mark} $c >&2"


def _setting(mark: str, env: Mapping[str, str] | None, cwd: str | None) -> str:
    wanted = dict(env or {})
    if wrong := [name for name in wanted if not _VARIABLE.fullmatch(name)]:
        raise CommandError(f"{wrong[0]!r} cannot be the name of a variable for a command on another machine")
    change = "" if cwd is None else f"CDPATH= cd {path(cwd)} >/dev/null || {{ echo '{mark}/' >&2; exit 1; }}; "
    return change + "".join(f"export {name}={_word(value)}; " for name, value in wanted.items())


def _execute(argv: Sequence[str], complaint: str) -> str:
    program = f"./{argv[0]}" if argv[0].startswith("-") else argv[0]
    words = " ".join(map(_word, [program, *argv[1:]]))
    return f"has {_word(program)} || {{ printf '%s\\n' {_word(complaint)} >&2; exit 127; }}; exec {words}"


def _word(text: str) -> str:
    if "\0" in text:
        raise CommandError("no word of a command can contain a NUL byte", command=shlex.join([text])[:1000])
    return shlex.quote(text)
