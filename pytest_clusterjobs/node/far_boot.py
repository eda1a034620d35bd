"""The first that runs on another host: ``python -u -c BOOT WORKDIR NAME STAMP OPTIONS``, where BOOT runs this text as
it comes on standard input.

Makes the run's directory there, takes the files that run jobs from standard input where they are missing, starts the
keeper (``far_keeper.py``) unless it runs, hands it both of its streams, and waits until it is let go. Each line that it
says is one JSON object: ``wants`` files, or ``refused`` and why. Up to the comparison of versions it is in words that
Python 2 understands, so that an old one is reported and not crashed on.
"""

import sys

if sys.path[:1] == [""]:
    del sys.path[0]  # the login's directory: nothing to import from

import base64
import errno
import fcntl
import json
import os
import socket
import stat
import subprocess

OLDEST = (3, 9)
_TRIES = 20


def main(workdir, name, stamp, options):
    # type: (str, str, str, str) -> int
    """Connect the streams to the keeper; gives the exit code."""
    why = why_refused()
    if why:
        say({"refused": why})
        return 0
    try:
        connection = reach(os.path.join(os.path.expanduser("~"), os.path.expanduser(workdir), name), stamp, options)
    except OSError as error:
        say({"refused": "{}: {}".format(error.filename or workdir, error.strerror or error)})
        return 0
    socket.send_fds(connection, [b"!"], [0, 1])
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)  # the keeper alone has the streams: when it closes them, they are closed
    connection.recv(1)
    return 0


def why_refused():
    # type: () -> str
    """Say why no job can run here, or give ""."""
    if not sys.platform.startswith("linux"):
        return "it needs Linux, and this is {}".format(sys.platform)
    if sys.version_info < OLDEST:
        version = ".".join(map(str, sys.version_info[:3]))
        return "it needs Python 3.9 or newer, and {} is {}".format(sys.executable, version)
    return ""


def reach(folder, stamp, options):
    # type: (str, str, str) -> socket.socket
    """Give a connection to the run's keeper, after all that it needs is there.

    The lock keeps a keeper that is about to end, which takes the directory with it, apart from one who comes just then.

    Raises:
        OSError: The directory cannot be made or written.
    """
    for _ in range(_TRIES):
        try:
            secure_folder(folder)
            os.chdir(folder)
        except FileNotFoundError:  # it, or the one above it, has just been removed
            continue
        lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_same(".", folder):
                if not os.path.exists(os.path.join("node", stamp)):
                    take_files(stamp)
                return connect(options)
        finally:
            os.close(lock)
    raise OSError(errno.EAGAIN, "the directory is removed again and again", folder)


def secure_folder(folder):
    # type: (str) -> None
    """Make a directory that is ours alone, with its parents.

    Raises:
        OSError: It cannot be made, or it belongs to somebody else.
    """
    os.makedirs(folder, 0o700, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, "it is no directory of uid {}; remove it".format(os.geteuid()), folder)
    os.chmod(folder, 0o700)


def is_same(one, other):
    # type: (str, str) -> bool
    """Tell whether two paths lead to one directory."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def take_files(stamp):
    # type: (str) -> None
    """Ask for the files that run jobs, and write them; the stamp says that they are complete."""
    say({"wants": "files"})
    files = json.loads(sys.stdin.buffer.readline())
    files[os.path.join("node", stamp)] = ""
    for path, text in files.items():
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(base64.b64decode(text))


def connect(options):
    # type: (str) -> socket.socket
    """Connect to the keeper. One that must be started finds the connection waiting."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect("socket")
        return connection
    except (FileNotFoundError, ConnectionRefusedError):  # there was none, or it was killed
        pass
    if os.path.exists("socket"):
        os.unlink("socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")  # relative: an address has room for 108 bytes, unix(7)
        listener.listen(8)
        nothing = os.open(os.devnull, os.O_RDWR)
        with open(os.open("keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
            subprocess.Popen(
                [sys.executable, "-u", os.path.join("node", "far_keeper.py"), str(listener.fileno()), options],
                stdin=nothing,
                stdout=nothing,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # it outlives this connection
            )
        os.close(nothing)
        connection.connect("socket")
    return connection


def say(words):
    # type: (dict[str, str]) -> None
    """Write a line of JSON."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
