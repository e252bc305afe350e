"""Files are written whole or not at all, where they were asked for, and nothing but a file is replaced."""

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ps_alloc.errors import run_command
from ps_alloc.files import atomic_path, check_output, read_json, write_json

ROOT = Path(__file__).parents[2]


def write(path, text="new", **settings):
    with atomic_path(path, **settings) as temporary:
        assert temporary.suffix == Path(path).resolve().suffix
        temporary.write_text(text)


def test_a_new_file_is_as_readable_as_any_its_user_creates(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask belongs to the whole process"))
    write(tmp_path / "made" / "on the way" / "a.txt")
    (tmp_path / "plain.txt").write_text("")
    plain = (tmp_path / "plain.txt").stat().st_mode
    assert (tmp_path / "made" / "on the way" / "a.txt").stat().st_mode == plain


def test_a_file_that_was_there_keeps_its_mode(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "a.txt").chmod(0o640)
    write(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_when_the_block_fails_the_old_file_stays_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(TypeError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text(2 * "half" / 2)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_named_by_the_file_that_found_no_place(tmp_path):
    message = r"No space left on device: '.*a\.json'"
    with pytest.raises(OSError, match=message), atomic_path(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "dangling"])
def test_links_are_written_through(tmp_path, there):
    real = tmp_path / "elsewhere" / "real.txt"
    real.parent.mkdir()
    if there:
        real.write_text("old")
    (tmp_path / "second.txt").symlink_to("elsewhere/real.txt")
    (tmp_path / "first.txt").symlink_to("second.txt")
    write(tmp_path / "first.txt")
    assert real.read_text() == "new"
    assert (tmp_path / "first.txt").is_symlink()
    assert (tmp_path / "second.txt").is_symlink()
    assert list(real.parent.iterdir()) == [real]


def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    # A socket's path has room for a hundred characters only.
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as short:
        server.bind(f"{short}/s")
        for path, kind in {
            tmp_path / "pipe": "a pipe",
            tmp_path / "link": "a pipe",
            tmp_path / "folder": "a folder",
            f"{short}/s": "a socket",
            "/dev/null": "a device",
        }.items():
            before = os.stat(path)
            for attempt in (write, check_output):
                with pytest.raises(ValueError, match=f"must be a regular file or none yet, but it is {kind}"):
                    attempt(path)
            assert os.path.samestat(os.stat(path), before)
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "folder", "link"}


def test_the_output_is_none_of_the_inputs(tmp_path):
    (tmp_path / "in.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("in.txt")
    os.link(tmp_path / "in.txt", tmp_path / "hard.txt")
    for name in ("in.txt", "link.txt", "hard.txt"):
        with pytest.raises(
            ValueError, match=rf"{name} must be another file than the input, but it is .*in.txt"
        ):
            write(tmp_path / name, inputs=[tmp_path / "none", tmp_path / "in.txt"])
        with pytest.raises(ValueError, match="must be another file than the input"):
            write_json(tmp_path / name, {}, inputs=[tmp_path / "in.txt"])
    assert (tmp_path / "in.txt").read_text() == "old"
    write(tmp_path / "out.txt", inputs=[tmp_path / "in.txt"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_json_of_other_editors_is_read(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes('{\r\n"ä": 1}\r\n'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"ä": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1', r"a.json must hold valid JSON, but Expecting .* line 1 column 8"),
        (b'{"\xff\xfa": 1}', r"a.json must hold valid JSON, but 'utf-8' codec"),
        (b"[" * 100_000, r"a.json must hold valid JSON, but it is nested too deeply"),
        (b"1" * 5000, r"a.json must hold valid JSON, but Exceeds the limit"),
        (b"", r"a.json must hold valid JSON, but Expecting value"),
    ],
)
def test_what_is_no_json_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "a.json")


def test_what_json_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    with pytest.raises(ValueError, match=r"a.json must be an existing JSON file, but there is no such file"):
        read_json(tmp_path / "a.json")


def command(script: str, output=subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess:
    """A command of the project whose body is `script`."""
    start = "import sys\nfrom ps_alloc.errors import run_command\n"
    whole = f"{start}def body():\n    {script}\nsys.exit(run_command(body))"
    return subprocess.run(
        [sys.executable, "-c", whole],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=output,
        stderr=subprocess.PIPE,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_console_that_lacks_a_character_gets_its_number(encoding):
    """The last is half of an emoji, or a byte of a file's name that is no UTF-8."""
    done = command(r"sys.stdout.write('é → \udc80\n')", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.decode(encoding).strip()
    expected = {"ascii": r"\xe9 \u2192 \udc80", "latin-1": r"é \u2192 \udc80", "utf-8": r"é → \udc80"}
    assert printed == expected[encoding]


def test_a_reader_that_has_gone_ends_the_command_without_a_word():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = command("sys.stdout.write('x' * 100_000)", output)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_broken_pipe_is_an_error():
    done = command("raise BrokenPipeError(32, 'Broken pipe')")
    assert (done.returncode, done.stderr) == (2, b"error: [Errno 32] Broken pipe\n")


def test_commands_end_with_their_exit_code(capsys):
    def fails(error):
        raise error

    assert run_command(lambda: None) == 0
    assert run_command(lambda: fails(ValueError("budget must be → 1"))) == 2
    assert run_command(lambda: fails(FileNotFoundError(2, "No such file", "x.json"))) == 2
    assert run_command(lambda: fails(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == (
        "error: budget must be → 1\nerror: [Errno 2] No such file: 'x.json'\ninterrupted\n"
    )
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: fails(ZeroDivisionError()))
