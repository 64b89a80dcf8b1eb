"""Files and folders are written whole or not at all, and their digests are those of sha256sum."""

import pytest

from ddim_jax.common import files


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
