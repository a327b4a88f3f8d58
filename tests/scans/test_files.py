"""Files are whole at every moment, tables compute nothing, paths stay where they belong."""

import contextlib
import errno
import json
import os
import pickle
import sys

import pytest

from napari_grata.scans import FileError, files
from napari_grata.scans.files import (
    clear_leftovers,
    csv_text,
    identifier,
    inside,
    make_folder,
    name_of_case,
    read_json,
    remove,
    rename,
    safe_cell,
    safe_name,
    sha256_of,
    stem,
    whole_file,
    write_bytes,
    write_csv,
    write_json,
)
from tools.faults import FailingPower, FaultySystem


@pytest.fixture
def system(monkeypatch):
    def install(kind=FaultySystem, **options):
        monkeypatch.setattr(files, "system", kind(**options))
        return files.system

    return install


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_it_is_told(tmp_path, system):
    log = system()
    write_bytes(tmp_path / "a", b"new")
    assert log.calls == ["create", "write", "sync", "rename", "sync_folder"]
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("fail_at", range(1, 6))
def test_whatever_fails_the_file_is_the_old_one_or_the_new_one(tmp_path, system, fail_at, code):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    log = system(fail_at=fail_at, code=code)
    with pytest.raises(FileError, match=r"/a: it cannot be written \(.*\)\. \w+") as caught:
        write_bytes(path, b"new")
    assert caught.value.errno == code
    assert str(tmp_path.parent) not in str(caught.value)
    assert path.read_bytes() == (b"new" if log.calls[fail_at - 1] == "sync_folder" else b"old")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("fail_at", [None, *range(1, 6)])
def test_when_the_power_goes_what_was_promised_is_there(tmp_path, system, fail_at):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    power = system(FailingPower, fail_at=fail_at, code=errno.EIO)
    promised = b"old"
    with contextlib.suppress(FileError):
        write_bytes(path, b"new")
        promised = b"new"
    power.cut()
    assert path.read_bytes() in (promised, b"new" if fail_at == 5 else promised)
    assert (promised == b"new") == (fail_at is None)


def test_a_disk_that_stays_full_leaves_the_old_file(tmp_path, system):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    system(fail_at=2, for_good=True)
    for _ in range(2):
        with pytest.raises(FileError, match="Free some space"):
            write_bytes(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_a_block_that_ends_with_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def half() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with whole_file(path) as file:
        file.write(b"one ")
        file.write(memoryview(b"two"))
    assert path.read_bytes() == b"one two"


@pytest.mark.skipif(os.name == "nt", reason="modes of files are those of Unix")
def test_files_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_folders_are_made_and_forced_to_the_disk(tmp_path, system):
    log = system()
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert log.calls == ["make_folder", "sync_folder"] * 2
    assert make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"cannot be written|a file of this name"):
        make_folder(tmp_path / "file" / "a")
    with pytest.raises(FileError, match="a file of this name"):
        make_folder(tmp_path / "file")


def test_names_are_changed_and_removed_on_the_disk_at_once(tmp_path, system):
    (tmp_path / "a").write_bytes(b"x")
    power = system(FailingPower)
    rename(tmp_path / "a", tmp_path / "b")
    power.cut()
    assert (tmp_path / "b").read_bytes() == b"x"
    remove(tmp_path / "b")
    remove(tmp_path / "b")
    assert power.calls[-4:] == ["remove", "sync_folder"] * 2
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileError, match="cannot be written"):
        rename(tmp_path / "a", tmp_path / "b")


def test_what_killed_writers_left_is_cleared_when_it_is_old(tmp_path):
    for name in (".partial-1-a", ".partial-2-b", "kept"):
        (tmp_path / name).touch()
    os.utime(tmp_path / ".partial-1-a", (0, 0))
    assert clear_leftovers([tmp_path, tmp_path / "nowhere"]) == 1
    assert {p.name for p in tmp_path.iterdir()} == {".partial-2-b", "kept"}


def test_json_comes_back_and_what_is_none_is_refused(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, None, "ä"]})
    assert read_json(path) == {"a": [1, None, "ä"]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    for content in (
        "[" * 100_000,
        "[1]",
        '{"a": ' + "1" * 20_000 + "}",
        "",
        "{",
        '{"a": "' + "x" * 99,
    ):
        path.write_text(content)
        with pytest.raises(ValueError):  # noqa: PT011
            read_json(path, most=200_000)
    path.write_text(json.dumps({"a": "x" * 300}))
    with pytest.raises(ValueError, match="longer than 200 bytes"):
        read_json(path, most=200)


def test_a_fingerprint_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_errors_survive_the_way_between_processes():
    error = FileError("it cannot be written (disk full)", "far/folder/file", "Free some space.", 28)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "folder/file: it cannot be written (disk full). Free some space."
    assert again.errno == 28


@pytest.mark.parametrize(
    "cell",
    [
        '=HYPERLINK("http://x","y")',
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        " =1",
        "-",
        "=1\n=2",
        "-1e",
    ],
)
def test_no_spreadsheet_computes_a_cell(cell):
    assert safe_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["-1", "+2.5", "-.5e-3", "a=b", "x -1", "", "é", "0", "−1"])
def test_numbers_and_plain_text_stay_as_they_are(cell):
    assert safe_cell(cell) == cell


def test_tables_keep_numbers_and_leave_out_what_is_not_there(tmp_path):
    text = csv_text(["case", "=x"], [["a,b", -1.5], [None, "=1"]])
    assert text == "case,'=x\n\"a,b\",-1.5\n,'=1\n"
    write_csv(tmp_path / "a.csv", ["area, mm²"], [["ü"]])
    assert (tmp_path / "a.csv").read_text("utf-8-sig") == '"area, mm²"\nü\n'
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2"):
        csv_text(["a", "b"], [["c"]])


def test_paths_stay_inside_their_folder(tmp_path):
    root = tmp_path / "list"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root / "loop")
    (root / "within").symlink_to(root / "cases")
    assert inside(root, "cases", "case-0001") == root.resolve() / "cases" / "case-0001"
    assert inside(root, "within", "a") == root.resolve() / "cases" / "a"
    for parts in (
        ("..", "escaped"),
        ("cases", "../../../escaped"),
        ("/etc/passwd",),
        ("link", "a"),
        ("link",),
        (".",),
        ("cases/..",),
        ("a\0b",),
    ):
        with pytest.raises(FileError, match=r"leads out|cannot be followed") as caught:
            inside(root, *parts)
        assert str(tmp_path) not in str(caught.value)
    if sys.version_info < (3, 13):
        with pytest.raises(FileError, match="cannot be followed"):
            inside(root, "loop", "a")


@pytest.mark.parametrize("name", ["case-0001", "case-123456"])
def test_identifiers_are_matched_whole(name):
    assert identifier(name, "case") == name
    for wrong in (
        f"{name}\n",
        f"../{name}",
        f"{name}/..",
        f" {name}",
        "case-٠٠٠١",
        "case-1",
        "",
        None,
        7,
    ):
        with pytest.raises(ValueError, match="is not the name of a case"):
            identifier(wrong, "case")


def test_a_bad_identifier_is_told_in_few_words():
    with pytest.raises(ValueError, match="not the name of a run") as caught:
        identifier("x" * 10_000_000, "run")
    assert len(str(caught.value)) < 100


def test_cases_are_named_by_number_unless_their_own_names_are_asked_for():
    assert name_of_case(7, "Jane Doe") == "case-0007"
    assert name_of_case(7, "Jane Doe", scan_names=True) == "Jane Doe"
    assert name_of_case(7, "", scan_names=True) == "case-0007"
    assert name_of_case(12345) == "case-12345"
    assert name_of_case(1, "../a:b", scan_names=True) == "_a_b"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b\\c", "a_b_c"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("CON", "_CON"),
        ("nul.nii", "_nul.nii"),
        (".partial-x", "partial-x"),
        ("x" * 300, "x" * 120),
        ("a\nb", "a_b"),
    ],
)
def test_names_of_files_are_ones_that_every_system_takes(name, safe):
    assert safe_name(name) == safe


def test_names_without_their_endings():
    names = {
        "a.nii.gz": "a",
        "a.nii": "a",
        "b.c.png": "b.c",
        "x/A.NII.GZ": "A",
        "a.gz": "a",
        "a": "a",
    }
    assert {name: stem(name) for name in names} == names
