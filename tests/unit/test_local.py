"""The file that says where the local collector is: only what is held is believed."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracer.local import Announcement, LocalAddress, announce, find

HERE = LocalAddress("http://127.0.0.1:4747", None)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "collector.json"


@pytest.fixture
def held(place: Path) -> Iterator[Announcement]:
    made = announced(place, HERE)
    yield made
    made.end()


def announced(place: Path, address: LocalAddress) -> Announcement:
    made = announce(place, address)
    assert made is not None
    return made


@pytest.mark.parametrize(
    "address",
    [
        HERE,
        LocalAddress("http://[::1]:5", "a~token"),
        LocalAddress("http://127.8.8.8:65535", "x" * 900),
    ],
)
def test_what_is_announced_is_found_until_it_ends(place: Path, address: LocalAddress) -> None:
    assert find(place) is None
    made = announced(place, address)
    assert [find(place) for _ in range(3)] == [address] * 3
    made.end()
    made.end()
    assert find(place) is None
    assert list(place.parent.iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277])
def test_s14_the_file_is_its_users_alone_under_any_umask(place: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = announced(place, LocalAddress(HERE.url, "secret"))
    finally:
        os.umask(before)
    assert not stat.S_IMODE(place.stat().st_mode) & 0o177
    assert find(place) == (HERE.url, "secret")
    made.end()


def test_a_file_that_nobody_holds_is_nobodys(place: Path, held: Announcement) -> None:
    content = place.read_bytes()
    held.end()
    place.write_bytes(content)
    place.chmod(0o600)
    assert find(place) is None
    after = announced(place, LocalAddress("http://127.0.0.1:1", None))
    assert find(place) == ("http://127.0.0.1:1", None)
    after.end()


def test_who_looks_keeps_no_collector_from_starting(place: Path) -> None:
    place.write_text("left over")
    with place.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        made = announced(place, HERE)
        assert find(place) == HERE
        made.end()


def test_the_second_collector_is_told_that_there_is_one(place: Path, held: Announcement) -> None:
    assert announce(place, LocalAddress("http://127.0.0.1:2", None)) is None
    assert find(place) == HERE
    assert os.listdir(place.parent) == [place.name]


def test_of_many_that_start_at_once_one_is_named(place: Path) -> None:
    made: list[Announcement | None] = []
    for _ in range(20):
        start = threading.Barrier(8)

        def begin(number: int, start: threading.Barrier = start) -> None:
            start.wait(10)
            made.append(announce(place, LocalAddress(f"http://127.0.0.1:{number}", None)))

        threads = [threading.Thread(target=begin, args=(n + 1,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        (winner,) = [m for m in made if m is not None]
        assert find(place) is not None
        winner.end()
        made.clear()


def test_the_end_of_one_leaves_the_file_of_another(place: Path, held: Announcement) -> None:
    place.unlink()
    other = announced(place, LocalAddress("http://127.0.0.1:2", None))
    held.end()
    assert find(place) == ("http://127.0.0.1:2", None)
    other.end()


def _link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def _fifo(place: Path, _: Path) -> None:
    os.mkfifo(place)


@pytest.mark.parametrize("make", [_link, _fifo])
def test_links_and_fifos_are_neither_followed_nor_waited_for(
    make: Callable[[Path, Path], None], place: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    victim = tmp_path / "other" / "victim"
    real = announced(victim, HERE)
    before = victim.read_bytes()
    make(place, victim)
    assert find(place) is None
    made = announced(place, LocalAddress("http://127.0.0.1:2", None))
    assert find(place) == ("http://127.0.0.1:2", None)
    assert victim.read_bytes() == before
    made.end()
    real.end()


def test_a_directory_in_the_way_is_an_error(place: Path) -> None:
    place.mkdir()
    assert find(place) is None
    with pytest.raises(OSError, match="directory"):
        announce(place, HERE)
    assert os.listdir(place.parent) == [place.name]


def test_a_file_that_others_may_use_is_not_believed(place: Path, held: Announcement) -> None:
    place.chmod(0o620)
    assert find(place) is None
    place.chmod(0o644)
    assert find(place) is None
    place.chmod(0o600)
    assert find(place) == HERE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_believed(place: Path, held: Announcement) -> None:
    os.chown(place, 12345, -1)
    assert find(place) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[" * 4000,
        '{"url": "http://127.0.0.1:4747"}',
        *(
            json.dumps({"url": url, "token": None})
            for url in (
                "http://192.168.0.1:4747",
                "http://example.com:4747",
                "http://localhost:4747",
                "https://127.0.0.1:4747",
                "http://127.0.0.1",
                "http://127.0.0.1:99999",
                "http://127.0.0.1:4747/path",
                "http://user@127.0.0.1:4747",
                "file:///etc/passwd",
                7,
            )
        ),
        json.dumps({"url": HERE.url, "token": "two words"}),
        json.dumps({"url": HERE.url, "token": "a\r\nb"}),
        json.dumps({"url": HERE.url, "token": 7}),
    ],
)
def test_what_is_no_address_on_loopback_is_none(
    content: str, place: Path, held: Announcement
) -> None:
    place.write_text(content)  # the same file, so it stays held
    assert find(place) is None


def test_looking_leaves_no_descriptor_open(place: Path, held: Announcement) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(50):
        find(place)
        announce(place, HERE)
    place.chmod(0o644)
    find(place)
    assert len(os.listdir("/proc/self/fd")) == len(before)
