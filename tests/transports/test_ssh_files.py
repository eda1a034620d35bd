"""Files over SSH, on a real sshd: whole or not at all, ours alone, and nothing outside of where they belong."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import TypeAlias

import pytest

from pytest_clusterjobs.core.errors import CommandTimeout, StoreError
from pytest_clusterjobs.transports.ssh import SSHTransport
from pytest_clusterjobs.transports.ssh_tar import unpack
from tests.transports.far import wait_for
from tests.watching import with_word

lane = pytest.mark.cluster_lane("sshd")
#: A name, a type, and a content or a target.
Member: TypeAlias = "tuple[str, bytes, str | bytes]"

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do that")

HARD_NAMES = [
    "-rf",
    "a b",
    "'",
    '"',
    "$(id)",
    "*",
    "é🙂",
    "new\nline",
    "\\n",
    "#",
    ";x",
    "~",
    "--",
    "\udcff",
    "!x",
    "%s",
]


def tree(folder: Path) -> dict[str, str]:
    """What a folder has: digests of files, targets of links."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            what = os.readlink(path) if path.is_symlink() else ""
            if path.is_file() and not path.is_symlink():
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = what
    return found


@lane
class TestFiles:
    def test_what_is_written_is_read_and_is_ours_alone(self, far: SSHTransport, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b"
        far.make_directory(str(path))
        far.make_directory(str(path))
        far.write(str(path / "f"), b"\0one\ntwo")
        far.write_many({str(path / "x"): b"", str(path / "y"): b"\xff" * 100_000}, [str(path / "x")])
        assert [(path / name).stat().st_mode & 0o777 for name in ("", "f", "x", "y")] == [0o700, 0o600, 0o700, 0o600]
        assert far.read(str(path / "f")) == b"\0one\ntwo"
        assert far.read(str(path / "f"), last_bytes=3) == b"two"
        assert far.read(str(path / "f"), last_bytes=1000) == b"\0one\ntwo"
        assert far.read(str(path / "y")) == b"\xff" * 100_000
        assert far.read(str(path / "x")) == b""
        assert far.read_first_line(str(path / "f")) == b"\0one"
        assert sorted(far.list_names(str(path))) == ["f", "x", "y"]

    def test_any_name_will_do(self, far: SSHTransport, tmp_path: Path) -> None:
        odd = ["-rf", "new\nline", "\\n", "\udcff", "'"]
        for name in odd:
            folder = str(tmp_path / "d" / name)
            far.make_directory(folder)
            far.write_many({f"{folder}/{each}": os.fsencode(each) for each in HARD_NAMES})
            assert sorted(far.list_names(folder)) == sorted(HARD_NAMES)
            assert far.read(f"{folder}/{name}") == os.fsencode(name)
            far.remove(f"{folder}/{name}")
            assert sorted(far.list_names(folder)) == sorted(set(HARD_NAMES) - {name})
        assert sorted(far.list_names(str(tmp_path / "d"))) == sorted(odd)
        assert sorted(os.listdir(tmp_path)) == ["d"]

    def test_what_is_not_there_is_none(self, far: SSHTransport, tmp_path: Path) -> None:
        path = str(tmp_path / "none")
        assert far.read(path) is None
        assert far.read(path, last_bytes=3) is None
        assert far.read_first_line(path) is None
        assert far.list_names(path) == []
        far.remove(path)

    def test_hidden_names_and_links_to_nowhere_are_listed_and_no_folders_own(
        self, far: SSHTransport, tmp_path: Path
    ) -> None:
        assert far.list_names(str(tmp_path)) == []
        for name in (".a", "..b", "...", ".c d"):
            (tmp_path / name).touch()
        (tmp_path / "link").symlink_to("nowhere")
        assert sorted(far.list_names(str(tmp_path))) == ["...", "..b", ".a", ".c d", "link"]

    def test_what_cannot_be_read_or_written_is_an_error_with_the_far_words(
        self, far: SSHTransport, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        for call in (far.read, far.read_first_line):
            with pytest.raises(StoreError, match=rf"cannot read {tmp_path} on clusterjobs: .*Is a directory"):
                call(str(tmp_path))
        with pytest.raises(StoreError, match=rf"cannot write {tmp_path} \(3 bytes\) on clusterjobs: .*Is a directory"):
            far.write(str(tmp_path), b"abc")
        with pytest.raises(StoreError, match="No such file or directory"):
            far.write(str(tmp_path / "no" / "such"), b"abc")
        with pytest.raises(StoreError, match=r"cannot make the directory .*/file/x on clusterjobs: .*Not a directory"):
            far.make_directory(str(tmp_path / "file" / "x"))
        with pytest.raises(StoreError, match=r"cannot copy to /proc/x on clusterjobs: .*cannot create directory"):
            far.put(str(tmp_path), ["file"], "/proc/x", 30)
        assert os.listdir(tmp_path) == ["file"]
        for name in ("", "a\0b"):
            with pytest.raises(StoreError, match="cannot be a file's name"):
                far.read(name)

    def test_directory_that_is_not_ours_is_refused(self, far: SSHTransport, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        with pytest.raises(StoreError, match="link on clusterjobs is not a directory of ours"):
            far.make_directory(str(tmp_path / "link"))
        (tmp_path / "real").chmod(0o755)
        far.make_directory(str(tmp_path / "real"))
        assert (tmp_path / "real").stat().st_mode & 0o777 == 0o700

    @is_root
    def test_directory_of_somebody_else_is_refused_with_its_owner(self, far: SSHTransport, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 12345, 12345)
        with pytest.raises(StoreError, match=r"owner uid 12345.*remove it or set another"):
            far.make_directory(str(tmp_path / "theirs"))

    def test_removing_a_link_leaves_what_it_points_to(self, far: SSHTransport, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "kept").touch()
        (tmp_path / "link").symlink_to("real")
        far.remove(str(tmp_path / "link"))
        assert os.listdir(tmp_path) == ["real"]
        far.remove(str(tmp_path / "real"))
        assert os.listdir(tmp_path) == []

    @is_root
    def test_full_disk_is_an_error_with_the_far_words_and_leaves_what_was(
        self, far: SSHTransport, tmp_path: Path
    ) -> None:
        small, source = tmp_path / "small", tmp_path / "source"
        small.mkdir()
        source.mkdir()
        (source / "big").write_bytes(os.urandom(3 << 20))
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            far.write(str(small / "big"), b"before")
            with pytest.raises(StoreError, match=r"cannot write .*/big \(3145728 bytes\) .*No space left on device"):
                far.write(str(small / "big"), bytes(3 << 20))
            with pytest.raises(StoreError, match=r"cannot copy to .*small on clusterjobs: .*No space left on device"):
                far.put(str(source), ["big"], str(small), 30)
            assert far.read(str(small / "big")) == b"before"
            assert os.listdir(small) == ["big"]
        finally:
            subprocess.run(["umount", str(small)], check=True)


@lane
class TestTrees:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        made = tmp_path / "source"
        for name in HARD_NAMES:
            (made / "deep" / name / ("n" * 120)).mkdir(parents=True)
            (made / "deep" / name / ("n" * 120) / "f").write_bytes(os.urandom(1000))
        (made / "empty").mkdir()
        (made / "run.sh").write_text("#!/bin/sh\n")
        (made / "run.sh").chmod(0o755)
        (made / "deep" / "link").symlink_to("../run.sh")
        (made / "twice").hardlink_to(made / "run.sh")
        return made

    def test_what_is_put_and_got_again_is_the_same(self, far: SSHTransport, source: Path, tmp_path: Path) -> None:
        far.put(str(source), ["deep", "empty", "run.sh", "twice"], str(tmp_path / "far" / "d"), 60)
        there = tmp_path / "far" / "d"
        assert tree(there) == tree(source)
        assert there.stat().st_mode & 0o777 == 0o700
        assert (there / "run.sh").stat().st_mode & 0o777 == 0o700
        assert (there / "deep" / "-rf").stat().st_mode & 0o777 == 0o700
        got = far.get(str(there), ["deep", "none", "empty", "twice", "run.sh"], str(tmp_path / "here" / "e"), 60)
        assert got == ["deep", "empty", "twice", "run.sh"]
        assert tree(tmp_path / "here" / "e") == tree(source)

    def test_any_name_goes_and_comes(self, far: SSHTransport, source: Path, tmp_path: Path) -> None:
        far.put(str(source / "deep"), HARD_NAMES, str(tmp_path / "far" / "\\n"), 60)
        assert sorted(os.listdir(tmp_path / "far" / "\\n")) == sorted(HARD_NAMES)
        assert far.get(str(tmp_path / "far" / "\\n"), HARD_NAMES, str(tmp_path / "here"), 60) == HARD_NAMES
        (source / "deep" / "link").unlink()
        assert tree(tmp_path / "here") == tree(source / "deep")

    def test_names_below_folders_go_alone_and_replace_what_is_there(
        self, far: SSHTransport, source: Path, tmp_path: Path
    ) -> None:
        there = tmp_path / "far"
        (there / "run.sh" / "was a folder").mkdir(parents=True)
        (there / "empty").write_text("was a file")
        (there / "other").write_text("stays")
        far.put(str(source), ["deep/a b", "run.sh", "empty"], str(there), 60)
        assert sorted(os.listdir(there)) == ["deep", "empty", "other", "run.sh"]
        assert os.listdir(there / "deep") == ["a b"]
        assert [(there / "run.sh").is_file(), (there / "empty").is_dir()] == [True, True]
        here = tmp_path / "here"
        (here / "run.sh").mkdir(parents=True)
        assert far.get(str(there), ["run.sh", "deep/a b"], str(here), 60) == ["run.sh", "deep/a b"]
        assert (here / "run.sh").is_file()
        assert os.listdir(here / "deep") == ["a b"]

    def test_nothing_is_there(self, far: SSHTransport, tmp_path: Path) -> None:
        assert far.get(str(tmp_path), ["a", "b/c"], str(tmp_path / "here"), 30) == []
        assert far.get(str(tmp_path / "none"), ["a"], str(tmp_path / "here"), 30) == []
        assert far.get(str(tmp_path), [], str(tmp_path / "here"), 30) == []
        with pytest.raises(StoreError, match=r"cannot read .*no-such"):
            far.put(str(tmp_path), ["no-such"], str(tmp_path / "far"), 30)
        wait_for(lambda: far.list_names(str(tmp_path / "far")) == [])  # what had come of it goes

    @pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", ".", "a\0b"])
    def test_names_that_lead_out_are_refused(self, far: SSHTransport, tmp_path: Path, name: str) -> None:
        with pytest.raises(StoreError, match="no path below a folder"):
            far.get(str(tmp_path), [name], str(tmp_path), 30)
        with pytest.raises(StoreError, match="no path below a folder"):
            far.put(str(tmp_path), [name], str(tmp_path), 30)

    def test_fifty_megabytes_go_and_come_back(self, far: SSHTransport, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "big").write_bytes(os.urandom(1 << 20) * 50)
        far.put(str(tmp_path / "source"), ["big"], str(tmp_path / "far"), 120)
        assert far.get(str(tmp_path / "far"), ["big"], str(tmp_path / "here"), 120) == ["big"]
        assert tree(tmp_path / "here") == tree(tmp_path / "source")

    def test_out_of_time_leaves_nothing_half_done(self, far: SSHTransport, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        with (tmp_path / "source" / "big").open("wb") as big:
            big.truncate(1 << 40)  # of no blocks, and of no end
        with pytest.raises(CommandTimeout):
            far.put(str(tmp_path / "source"), ["big"], str(tmp_path / "far"), 1.5)
        with pytest.raises(CommandTimeout):
            far.get(str(tmp_path / "source"), ["big"], str(tmp_path / "here"), 1.5)
        assert (os.listdir(tmp_path / "here"), with_word("tar\0-C\0" + str(tmp_path))) == ([], [])
        far.run(["sh", "-c", f'while [ -n "$(ls -A {tmp_path}/far)" ]; do sleep 0.05; done'], 30)

    def test_file_that_grows_meanwhile_comes_as_it_was(self, far: SSHTransport, tmp_path: Path) -> None:
        script = f"cd {tmp_path} && while [ ! -e stop ]; do echo line; done >log"
        with far.open(["sh", "-c", script]) as writer:
            try:
                for number in range(3):
                    assert far.get(str(tmp_path), ["log"], str(tmp_path / f"here{number}"), 30) == ["log"]
            finally:
                (tmp_path / "stop").touch()
                writer.communicate(timeout=20)
        whole = (tmp_path / "log").read_bytes()
        assert whole.startswith((tmp_path / "here2" / "log").read_bytes())


def archive(*members: Member, upto: int | None = None) -> io.BytesIO:
    """An archive of somebody who means no good: names, types, and contents or targets."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as file:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o777
            if isinstance(content, bytes):
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                file.addfile(info)
    return io.BytesIO(made.getvalue()[:upto])


class TestUnpacking:
    @pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", "b", "ab"])
    def test_what_was_not_asked_for_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(StoreError, match="it was not asked for"):
            unpack(archive((name, tarfile.REGTYPE, b"x")), ["a"], str(tmp_path / "t"))
        assert not (tmp_path / "out").exists()

    def test_nothing_is_written_through_a_link(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "kept").write_text("kept")
        members: list[Member] = [
            ("a/link", tarfile.SYMTYPE, str(out)),
            ("a/link/kept", tarfile.REGTYPE, b"evil"),
            ("a/up", tarfile.SYMTYPE, "../../out"),
            ("a/up/kept", tarfile.REGTYPE, b"evil"),
            ("a/file", tarfile.SYMTYPE, str(out / "kept")),
            ("a/file", tarfile.REGTYPE, b"evil"),
        ]
        (tmp_path / "t" / "a").mkdir(parents=True)
        (tmp_path / "t" / "a" / "link").symlink_to(out)
        (tmp_path / "t" / "a" / "file").symlink_to(out / "kept")
        unpack(archive(*members), ["a"], str(tmp_path / "t"))
        assert ((out / "kept").read_text(), os.listdir(out)) == ("kept", ["kept"])
        assert (tmp_path / "t" / "a" / "link" / "kept").read_text() == "evil"

    def test_links_stay_inside_whatever_others_are_made(self, tmp_path: Path) -> None:
        members: list[Member] = [
            ("a/b/in", tarfile.SYMTYPE, "../file"),
            ("a/b/top", tarfile.SYMTYPE, "../.."),
            ("a/b/trick", tarfile.SYMTYPE, "top/.."),
            ("a/b/far", tarfile.SYMTYPE, "../../../x"),
            ("a/b/absolute", tarfile.SYMTYPE, "/etc/passwd"),
            ("a/file", tarfile.REGTYPE, b"x"),
        ]
        assert unpack(archive(*members), ["a"], str(tmp_path / "t")) == ["a"]
        assert sorted(os.listdir(tmp_path / "t" / "a" / "b")) == ["in", "top"]
        assert (tmp_path / "t" / "a" / "b" / "in").read_text() == "x"

    def test_second_name_of_a_file_outside_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        (tmp_path / "t" / "a").mkdir(parents=True)
        (tmp_path / "t" / "a" / "link").symlink_to(tmp_path / "secret")
        for original in ("../secret", "a/link", str(tmp_path / "secret"), "a"):
            with pytest.raises((StoreError, OSError), match=r"it is a name of|cannot write"):
                unpack(archive(("a/x", tarfile.LNKTYPE, original)), ["a"], str(tmp_path / "t"))
        assert os.listdir(tmp_path / "t" / "a") == ["link"]

    def test_devices_and_pipes_are_left_out_and_modes_are_ours(self, tmp_path: Path) -> None:
        members: list[Member] = [
            ("a/p", tarfile.FIFOTYPE, ""),
            ("a/c", tarfile.CHRTYPE, ""),
            ("a/f", tarfile.REGTYPE, b"x"),
        ]
        unpack(archive(*members), ["a"], str(tmp_path / "t"))
        assert os.listdir(tmp_path / "t" / "a") == ["f"]
        assert (tmp_path / "t" / "a" / "f").stat().st_mode & 0o7777 == 0o700

    @pytest.mark.parametrize("upto", [100, 600, 1500, 2100])
    def test_archive_that_is_cut_off_is_never_taken_for_whole(self, tmp_path: Path, upto: int) -> None:
        cut = archive(("f", tarfile.REGTYPE, b"x" * 3000), upto=upto)
        with pytest.raises(tarfile.TarError):
            unpack(cut, ["f"], str(tmp_path / "t"))
        assert not (tmp_path / "t" / "f").exists()
