"""Files and folders are written whole or not at all, and their digests are those of sha256sum."""

import os

import pytest

from ddim_jax.common import files
from ddim_jax.common.devices import check_memory
from ddim_jax.common.files import check_writable, read_json
from ddim_jax.common.text import is_plain, shown


def test_a_whole_file_appears_at_the_end(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    with files.whole(path) as part:
        part.write_bytes(b"old")
        assert not path.exists()
    with files.whole(path) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="no space"), files.whole(path) as part:
        part.write_bytes(b"ne")
        raise OSError("no space left on device")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_a_whole_folder_appears_at_the_end(tmp_path):
    folder = tmp_path / "a" / "b"
    with files.whole_folder(folder) as part:
        (part / "one").write_bytes(b"1")
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["one"]
    assert [path.name for path in folder.parent.iterdir()] == ["b"]


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    killed = tmp_path / ".out.part"  # what a process that was killed has left
    killed.mkdir()
    (killed / "old").write_bytes(b"old")
    with pytest.raises(OSError, match="no space"), files.whole_folder(tmp_path / "out") as part:
        assert not list(part.iterdir())
        raise OSError("no space left on device")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_kept(tmp_path):
    (tmp_path / "empty").mkdir()
    with files.whole_folder(tmp_path / "empty") as part:
        (part / "one").write_bytes(b"1")
    (tmp_path / "file").write_bytes(b"1")
    for taken in ("empty", "file"):
        with pytest.raises(FileExistsError, match=f"{taken} already holds something"), files.whole_folder(tmp_path / taken):
            pass
    assert (tmp_path / "empty" / "one").read_bytes() == b"1"


def test_digests(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"abc")
    files.check_digest(path)  # there is none to check
    files.write_digest(path)
    # FIPS 180-2 gives the SHA-256 of "abc"; two spaces and the name are the format of sha256sum.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (tmp_path / "weights.bin.sha256").read_text() == f"{digest}  weights.bin\n"
    files.check_digest(path)
    path.write_bytes(b"abd")
    with pytest.raises(ValueError, match="weights.bin is not the file that weights.bin.sha256 was written for"):
        files.check_digest(path)


def test_what_can_be_written_is_known_before_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path, folder in [("new", False), ("file", False), ("a/b/c", False), ("folder", True), ("a/b", True)]:
        check_writable(tmp_path / path, folder)
    for path, folder in [("file", True), ("file/x", False), ("file/x/y", True), ("folder", False)]:
        with pytest.raises(ValueError, match=r"the output .* cannot be written to \((Not|Is) a directory\): give another"):
            check_writable(tmp_path / path, folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("text", ["{", "[1]", "7", '{"a": NaN}', '{"a": -Infinity}', "[" * 10**5, '{"\\u001b[2J": 1}', b"\xff"])
def test_json_that_is_no_configuration(text):
    with pytest.raises(ValueError, match="^here is (damaged or not a configuration in JSON|no configuration: .*x1b)"):
        read_json(text, "here")
    assert read_json('{"a": [1, "\\u001b"]}', "here") == {"a": [1, "\x1b"]}


@pytest.mark.parametrize("value, text", [("\x1b[2J\u202e", r"'\x1b[2J\u202e'"), (7, "7"), (999 * "a", "'" + 199 * "a" + "...")])
def test_what_files_say_is_only_printed(value, text):
    assert shown(value) == text and is_plain(text) == (len(text) < 200)


def test_more_memory_than_there_is():
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    check_memory("this", on_device=machine // 2, on_host=machine // 2)
    with pytest.raises(ValueError, match=rf"^this takes at least .* GB of memory, but this machine has {machine / 1e9:,.1f} GB"):
        check_memory("this", on_host=machine + 1)


def test_paths_as_people_write_them(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert files.local("~/runs/a") == "/home/ada/runs/a"
    assert files.local("file:///runs/a") == "/runs/a"
    assert files.local("runs/a") == "runs/a"
    with pytest.raises(ValueError, match="gs://bucket/run is no path on this machine: mount what gs:// names"):
        files.local("gs://bucket/run")
