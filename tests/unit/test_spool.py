"""The directory: names, modes, locks, and whose files are touched."""

from __future__ import annotations

import fcntl
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import run

from tracer.errors import SpoolError, SpoolFullError
from tracer.frame import DELIVERED, EVENT, FILE_HEADER, build_frame, file_header
from tracer.segment import Frame, Segment
from tracer.spool import STALE, Spool, _filesystem_of

ID = bytes(16)
SIZE = 1 << 20


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", "here")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def adopted(spool: Spool) -> list[Segment]:
    """Adopt whatever there is."""
    return list(iter(spool.adopt, None))


def leave(spool: Spool, number: int = 3) -> str:
    """Write some events and die: the file stays, its lock is gone."""
    segment = spool.create(SIZE)
    for n in range(1, number + 1):
        segment.append(build_frame(EVENT, n, ID, b"%d" % n))
    segment.close()
    assert segment.path is not None
    return segment.path


def test_s14_directory_and_files_are_closed_to_others_under_any_umask(
    umask: int, tmp_path: Path
) -> None:
    directory = tmp_path / "made" / "on the way" / "spool"
    segment = Spool(directory, "here").create(SIZE)
    assert segment.path is not None
    assert stat.S_IMODE(os.stat(segment.path).st_mode) == 0o600
    for place in (directory, directory.parent, directory.parent.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700, umask
    segment.close()


def test_a_new_segment_is_fully_allocated_and_locked(spool: Spool) -> None:
    segment = spool.create(SIZE)
    assert segment.path is not None
    found = os.stat(segment.path)
    assert found.st_size == SIZE
    assert found.st_blocks * 512 >= SIZE
    assert not is_free(segment.path)
    segment.close()
    assert is_free(segment.path)


def resident(path: str) -> int:
    """Return the bytes of a mapped file that this process has in its page table."""
    _, found, rest = Path("/proc/self/smaps").read_text().partition(path)
    return int(rest.split("Rss:")[1].split()[0]) << 10 if found else 0


@pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (5, 14),
    reason="this kernel cannot populate pages ahead",
)
def test_pages_are_there_before_somebody_writes_to_them(spool: Spool) -> None:
    segment = spool.create(8 << 20)
    assert segment.path is not None
    assert resident(segment.path) < 1 << 20
    segment.populate()
    ready = resident(segment.path)
    assert 1 << 20 <= ready < 2 << 20, "some of it, not all"
    segment.append(build_frame(EVENT, 1, ID, b"x" * (3 << 20)))
    segment.populate()
    assert resident(segment.path) >= 4 << 20
    spool.discard(segment)


def is_free(path: str) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_f40_a_forked_child_neither_holds_nor_frees_the_lock(tmp_path: Path) -> None:
    program = """
        import fcntl, os, sys
        from pathlib import Path
        from tracer.buffer import Buffer
        from tracer.frame import EVENT
        from tracer.spool import Spool

        def is_free(path):
            fd = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            finally:
                os.close(fd)
            return True

        directory = Path(sys.argv[1])
        buffer = Buffer(Spool(directory, "here"), 1, 1 << 20)
        assert buffer.write(EVENT, bytes(16), b"{}")
        (path,) = directory.glob("*.segment")
        ready, go = os.pipe(), os.pipe()
        if os.fork() == 0:
            buffer.after_fork_in_child()     # closes the child's copy
            assert not is_free(path)         # the parent's lock is still there
            buffer.write(EVENT, bytes(16), b"{}")
            mine = set(directory.glob("*.segment")) - {path}
            assert len(mine) == 1
            os.write(ready[1], b"x")
            os.close(go[1])
            os.read(go[0], 1)                # until the parent has let go
            os._exit(0 if is_free(path) and not is_free(mine.pop()) else 9)
        os.read(ready[0], 1)
        assert not is_free(path)
        buffer.close()
        os.close(go[1])
        assert os.waitpid(-1, 0)[1] == 0
        """
    ended = run(program, tmp_path / "spool")
    assert ended.code == 0, ended.err


def test_orphans_are_adopted_in_order_and_only_once(spool: Spool, tmp_path: Path) -> None:
    left = [leave(spool) for _ in range(3)]
    adopter = Spool(tmp_path / "spool", "here")
    taken = adopted(adopter)
    assert [s.path for s in taken] == left
    assert [s.count_waiting() for s in taken] == [3, 3, 3]
    assert all(s.sealed for s in taken)
    assert adopted(Spool(tmp_path / "spool", "here")) == [], "they are locked by the first"
    for segment in taken:
        adopter.discard(segment)
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_is_alive_is_not_adopted(spool: Spool) -> None:
    segment = spool.create(SIZE)
    assert adopted(spool) == []
    segment.close()
    assert len(adopted(spool)) == 1


def test_f45_another_destination_is_left_alone(spool: Spool, tmp_path: Path) -> None:
    path = leave(spool)
    before = Path(path).read_bytes()
    assert adopted(Spool(tmp_path / "spool", "elsewhere")) == []
    assert Path(path).read_bytes() == before
    assert len(adopted(Spool(tmp_path / "spool", "here"))) == 1


def test_f45_the_destination_of_another_key_continues_the_one_before(
    spool: Spool, tmp_path: Path
) -> None:
    leave(spool)
    other = Spool(tmp_path / "spool", "before")
    other.write_for("here")
    leave(other)
    for _ in range(2):
        other.write_for("after")
    leave(other)
    assert len(adopted(Spool(tmp_path / "spool", "elsewhere"))) == 0
    taken = adopted(Spool(tmp_path / "spool", "after"))
    assert len(taken) == 1
    taken[0].close()
    assert len(adopted(other)) == 3


def _symlink(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def _fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path, _: Path) -> None:
    path.mkdir()


def _empty(path: Path, _: Path) -> None:
    path.touch()


def _foreign(path: Path, _: Path) -> None:
    path.write_bytes(b"something else" * 100)


def _future(path: Path, victim: Path) -> None:
    header = bytearray(victim.read_bytes())
    header[8] = 2
    path.write_bytes(header)


def _cut(path: Path, victim: Path) -> None:
    path.write_bytes(victim.read_bytes()[: FILE_HEADER - 1])


@pytest.mark.parametrize(
    "make", [_symlink, _fifo, _directory, _empty, _foreign, _future, _cut], ids=lambda m: m.__name__
)
@pytest.mark.parametrize("suffix", [".segment", ".segment.tmp", ".txt"])
def test_f43_what_is_not_ours_is_neither_read_nor_touched_nor_waited_for(
    make: Callable[[Path, Path], None], suffix: str, spool: Spool, tmp_path: Path
) -> None:
    victim = Path(leave(spool)).rename(tmp_path / "victim")
    place = tmp_path / "spool" / f"0{suffix}"
    make(place, victim)
    before = place.lstat()
    assert adopted(spool) == []
    after = place.lstat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns, after.st_mode) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
        before.st_mode,
    )
    assert victim.exists()


@pytest.mark.parametrize("length", [FILE_HEADER, FILE_HEADER + 1, FILE_HEADER + 39, 200, 4097])
def test_f33_a_truncated_file_gives_what_is_whole(
    length: int, spool: Spool, tmp_path: Path
) -> None:
    path = leave(spool)
    os.truncate(path, length)
    (segment,) = adopted(Spool(tmp_path / "spool", "here"))
    kept = [f for f in segment.walk() if isinstance(f, Frame)]
    assert len(kept) == min((length - FILE_HEADER) // 48, 3)
    assert segment.is_settled == (not kept)
    segment.close()


def test_unfinished_files_go_when_they_are_old_and_nobody_makes_them(
    spool: Spool, tmp_path: Path
) -> None:
    places = [tmp_path / "spool" / f"{n}.segment.tmp" for n in range(3)]
    for place in places:
        place.touch()
    old = time.time() - STALE - 1
    os.utime(places[0], (old, old))
    os.utime(places[1], (old, old))
    with places[1].open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert adopted(spool) == []
    assert [p.exists() for p in places] == [False, True, True]


def test_settled_segments_are_deleted(spool: Spool, tmp_path: Path) -> None:
    segment = spool.create(SIZE)
    segment.append(build_frame(EVENT, 1, ID, b"{}"))
    segment.seal()
    for frame in segment.walk():
        assert isinstance(frame, Frame)
        segment.settle(frame, DELIVERED)
    assert not list(segment.walk())
    assert segment.is_settled
    spool.discard(segment)
    assert list((tmp_path / "spool").iterdir()) == []


def test_f38_a_directory_that_vanishes_is_made_again(spool: Spool, tmp_path: Path) -> None:
    segment = spool.create(SIZE)
    for path in (tmp_path / "spool").iterdir():
        path.unlink()
    (tmp_path / "spool").rmdir()
    segment.append(build_frame(EVENT, 1, ID, b"still mapped"))
    assert segment.count_waiting() == 1
    assert adopted(spool) == []
    other = spool.create(SIZE)
    assert other.path is not None
    assert Path(other.path).exists()
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    spool.discard(segment)  # its file is gone: no complaint
    spool.discard(other)


def test_f38_an_unusable_directory_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="file"):
        Spool(tmp_path / "file", "here")
    with pytest.raises(SpoolError, match=r"Not a directory|File exists"):
        Spool(tmp_path / "file" / "below", "here")
    for mode in (0o770, 0o707):
        open_to_others = tmp_path / f"{mode:o}"
        open_to_others.mkdir()
        open_to_others.chmod(mode)
        with pytest.raises(SpoolError, match="other users may write"):
            Spool(open_to_others, "here")


def test_where_a_full_disk_would_be_a_signal_files_are_written_not_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.spool._filesystem_of", lambda _: "btrfs")
    spool = Spool(tmp_path / "spool", "here")
    segment = spool.create(SIZE)
    segment.append(build_frame(EVENT, 1, ID, b"kept"))
    assert segment.path is not None
    assert segment.path not in Path("/proc/self/maps").read_text()
    assert os.stat(segment.path).st_size < 200, "grows with what is written"
    segment.close()
    (found,) = adopted(Spool(tmp_path / "spool", "here"))
    assert [f.payload for f in found.walk() if isinstance(f, Frame)] == [b"kept"]
    found.close()


def test_f42_a_directory_at_its_cap_takes_one_segment_more(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "here", max_bytes=2 * SIZE)
    made = [spool.create(SIZE) for _ in range(3)]
    assert spool.excess(SIZE) == 2 * SIZE
    with pytest.raises(SpoolFullError, match="holds its 2,097,152 bytes"):
        spool.create(SIZE)
    spool.discard(made.pop())
    assert spool.excess(SIZE) == SIZE
    made.append(spool.create(SIZE))
    for segment in made:
        spool.discard(segment)
    assert spool.excess(0) == -2 * SIZE


def test_f42_whoever_needs_room_may_take_orphans_of_any_destination(
    spool: Spool, tmp_path: Path
) -> None:
    leave(spool)
    other = Spool(tmp_path / "spool", "elsewhere")
    assert other.adopt() is None
    found = other.adopt(any_destination=True)
    assert found is not None
    assert found.count_waiting() == 3
    other.discard(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_f38_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    os.chown(other, 12345, -1)
    with pytest.raises(SpoolError, match="belongs to user 12345"):
        Spool(other, "here")


def test_f36_a_limit_on_file_size_is_an_error_not_a_signal(tmp_path: Path) -> None:
    program = """
        import resource, sys
        from pathlib import Path
        from tracer.errors import SpoolFullError
        from tracer.spool import Spool
        spool = Spool(Path(sys.argv[1]), "here")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            spool.create(2 << 20)
        except SpoolFullError:
            assert not list(Path(sys.argv[1]).iterdir())
            print("refused")
        """
    ended = run(program, tmp_path / "spool")
    assert (ended.code, ended.out) == (0, "refused\n"), ended.err


def test_a_full_disk_leaves_nothing_behind(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(SpoolFullError):
        spool.create(1 << 60)
    assert list((tmp_path / "spool").iterdir()) == []
    fds = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(SpoolFullError):
            spool.create(1 << 60)
    assert set(os.listdir("/proc/self/fd")) <= fds, "descriptors leak"


def test_names_never_clash(spool: Spool, tmp_path: Path) -> None:
    spools = [spool, *(Spool(tmp_path / "spool", "here") for _ in range(20))]
    made = [s.create(4096) for s in spools for _ in range(3)]
    assert len({s.path for s in made}) == len(made)
    for segment in made:
        segment.close()


def test_the_file_system_is_found_in_the_mount_table(tmp_path: Path) -> None:
    assert _filesystem_of(Path("/proc")) == "proc"
    if Path("/dev/shm").is_mount():  # noqa: S108 - looked at, not used
        assert _filesystem_of(Path("/dev/shm/x")) == "tmpfs"  # noqa: S108 - as above
    assert _filesystem_of(tmp_path) in ("ext4", "xfs", "tmpfs", "overlay", "btrfs")


def test_a_header_is_on_disk_before_the_name_is(spool: Spool, tmp_path: Path) -> None:
    segment = spool.create(SIZE)
    assert segment.path is not None
    assert Path(segment.path).read_bytes()[:FILE_HEADER] == file_header("here")
    segment.close()
