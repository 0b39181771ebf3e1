"""Files kept between runs: owner-only, whole, refused where others may write, and written by many at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from maskc import cache

TEXT = "# a kernel\n" * 1000
CONTENT = bytes(range(256)) * 50


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKC_CACHE_DIR", str(tmp_path / "cache"))
    cache._warn.cache_clear()
    return tmp_path / "cache"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_may_read_and_write(root: Path) -> None:
    old = os.umask(0)
    try:
        path = cache.text_file("texts", TEXT, ".py")
        assert cache.write("contents", "one", CONTENT)
    finally:
        os.umask(old)
    assert path.parent == root / "texts"
    for file in (path, root / "contents" / "one"):
        assert mode(file) == 0o600
        assert mode(file.parent) == 0o700
    assert mode(root) == 0o700


def test_contents_are_found_again(root: Path) -> None:
    assert cache.read("contents", "one") is None
    assert cache.write("contents", "one", b"older")
    assert cache.write("contents", "one", CONTENT)
    assert cache.read("contents", "one") == CONTENT
    assert cache.names("contents") == ["one"]
    assert cache.text_file("texts", TEXT, ".py") == cache.text_file("texts", TEXT, ".py")
    assert cache.text_file("texts", TEXT, ".py") != cache.text_file("texts", TEXT + "#", ".py")


def _others_may_write(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (root / "texts").chmod(0o777)
    (root / "contents").chmod(0o770)
    return "others may write"


def _somebody_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(os, "getuid", lambda: (root / "texts").stat().st_uid + 1)
    return "belongs to somebody else"


def _open_above(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    root.chmod(0o777)
    return "others may write"


def _open_to_a_group(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    root.chmod(0o775)
    return "others may write"


def _somebody_elses_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if os.getuid() == 0:
        os.chown(root, 65534, -1)
        root.chmod(0o1777)
    else:
        monkeypatch.setattr(os, "getuid", lambda: root.stat().st_uid + 1)
    return "belongs to somebody else"


def _a_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("texts", "contents"):
        (root / name).rename(root / f"real-{name}")
        (root / name).symlink_to(root / f"real-{name}")
    return "is no directory"


def _a_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MASKC_CACHE_DIR", str(root / "contents" / "one"))
    return "exists"


@pytest.mark.skipif(os.name == "nt", reason="about owners and modes of POSIX")
@pytest.mark.parametrize(
    "spoil",
    [
        _others_may_write,
        _somebody_else,
        _somebody_elses_root,
        _open_above,
        _open_to_a_group,
        _a_link,
        _a_file,
    ],
)
def test_refused_with_one_warning_and_worked_around(
    root: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path, pytest.MonkeyPatch], str]
) -> None:
    kept = cache.text_file("texts", TEXT, ".py")
    assert cache.write("contents", "one", CONTENT)
    why = spoil(root, monkeypatch)
    with pytest.warns(RuntimeWarning, match=f"{why}.*set MASKC_CACHE_DIR"):
        path = cache.text_file("texts", TEXT, ".py")
    assert path.read_text() == TEXT
    assert path != kept
    assert mode(path.parent) == 0o700
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another directory may warn once of its own
        assert cache.read("contents", "one") is None
        assert not cache.write("contents", "two", CONTENT)
        assert cache.names("contents") == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.text_file("texts", TEXT, ".py") == path
        assert cache.read("contents", "one") is None


def test_a_directory_that_others_may_read_is_closed(root: Path) -> None:
    path = cache.text_file("texts", TEXT, ".py")
    path.parent.chmod(0o755)
    cache.text_file("texts", TEXT, ".py")
    assert mode(path.parent) == 0o700


@pytest.mark.parametrize("damage", [lambda x: b"", lambda x: x[:100], lambda x: x + b"more", lambda x: b"X" + x[1:]])
def test_damage_is_found_and_repaired(root: Path, damage: Callable[[bytes], bytes]) -> None:
    path = cache.text_file("texts", TEXT, ".py")
    path.write_bytes(damage(path.read_bytes()))
    assert cache.text_file("texts", TEXT, ".py").read_text() == TEXT
    cache.write("contents", "one", CONTENT)
    file = root / "contents" / "one"
    file.write_bytes(damage(file.read_bytes()))
    assert cache.read("contents", "one") is None
    cache.write("contents", "one", CONTENT)
    assert cache.read("contents", "one") == CONTENT


def test_a_file_that_others_may_write_is_not_read(root: Path) -> None:
    cache.write("contents", "one", CONTENT)
    (root / "contents" / "one").chmod(0o666)
    assert cache.read("contents", "one") is None
    path = cache.text_file("texts", TEXT, ".py")
    path.chmod(0o666)
    assert mode(cache.text_file("texts", TEXT, ".py")) == 0o600


def test_a_full_disk_loses_nothing_but_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        path = cache.text_file("texts", TEXT, ".py")
    assert path.read_text() == TEXT
    assert list((root / "texts").iterdir()) == []


_WRITER = """
import sys
from maskc import cache
for i in range(60):
    text = f"# text {i % 5}" * 5000
    assert cache.text_file("texts", text, ".py").read_text() == text
    assert cache.write("contents", f"name{i % 5}", text.encode())
    found = cache.read("contents", f"name{i % 5}")
    assert found is not None and found.decode() == text
"""


def test_many_processes_write_the_same_entries(root: Path) -> None:
    environment = {**os.environ, "MASKC_CACHE_DIR": str(root)}
    processes = [subprocess.Popen([sys.executable, "-c", _WRITER], env=environment) for _ in range(4)]
    assert [p.wait(60) for p in processes] == [0] * 4
    assert cache.names("contents") == [f"name{i}" for i in range(5)]
    assert len(list((root / "texts").iterdir())) == 5  # and nothing that is half written
    assert len(list((root / "contents").iterdir())) == 5


@pytest.mark.skipif(os.name == "nt", reason="about homes of POSIX")
def test_nothing_is_kept_where_no_home_is_known(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("MASKC_CACHE_DIR")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.warns(RuntimeWarning, match="no home directory is known.*set MASKC_CACHE_DIR"):
        assert not cache.write("contents", "one", CONTENT)
    assert cache.read("contents", "one") is None
    assert cache.text_file("texts", TEXT, ".py").read_text() == TEXT


def test_a_path_stays_true_where_the_process_goes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKC_CACHE_DIR", "kept")
    path = cache.text_file("texts", TEXT, ".py")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert path.read_text() == TEXT


def test_an_interrupt_leaves_no_file_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: str, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.write("contents", "one", CONTENT)
    assert list((root / "contents").iterdir()) == []


_FORKS = """
import os, sys
from maskc import cache
first = cache.text_file("texts", "first", ".py")
child = os.fork()
assert cache.text_file("texts", "second", ".py").read_text() == "second"
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert first.read_text() == "first"
    assert cache.text_file("texts", "third", ".py").read_text() == "third"
    print(first.parent)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_takes_no_files_with_it(tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    environment = {**os.environ, "MASKC_CACHE_DIR": str(nowhere)}
    command = [sys.executable, "-W", "ignore", "-c", _FORKS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).exists()
