"""What is printed cannot steer a terminal, and a lost reader ends nothing."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.streams import GuardedStream, guarded_streams, one_line, printable

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\u001b[2Jgone"),
        ("\x9b31m", "\\u009b31m"),
        ("a\rb\x07\x08\x7f\0", "a\\u000db\\u0007\\u0008\\u007f\\u0000"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Ünï 猫 [bold] :cat:", "Ünï 猫 [bold] :cat:"),
    ],
)
def test_control_characters_become_visible(text, shown):
    assert printable(text) == shown
    stream = io.StringIO()
    GuardedStream(stream, essential=True).write(text)
    assert stream.getvalue() == shown


def test_a_message_is_one_line_of_bounded_length():
    assert one_line("a\nb\n") == "a b"
    long = one_line("x" * 3_000_000)
    assert len(long) < 2100 and long.endswith("(2998000 more characters)")


class Broken(io.StringIO):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


def test_a_lost_reader_ends_nothing_and_lost_output_is_an_error():
    import errno

    for number in (errno.EPIPE, errno.EIO, errno.EBADF):
        assert GuardedStream(Broken(number), essential=True).write("x") == 1
    assert GuardedStream(Broken(errno.ENOSPC), essential=False).write("x") == 1
    with pytest.raises(OSError, match="No space left"):
        GuardedStream(Broken(errno.ENOSPC), essential=True).write("x")


def test_streams_are_restored(capsys):
    before = sys.stdout, sys.stderr
    with guarded_streams():
        print("\x1b[1m")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "\\u001b[1m\n"


SCRIPT = """
import sys
from core.streams import guarded_streams
with guarded_streams():
    for n in range(20000):
        print("x" * 80)
        print("ä\\udce4", file=sys.stderr)
open(sys.argv[1], "w").write("done")
"""


@pytest.mark.parametrize(
    "closing", ["2>&-", ">&-", ">&- 2>&-", "| head -1", "2>&1 | head -1", "<&-"]
)
def test_closed_and_short_readers_let_the_work_end(tmp_path, closing):
    script, done = tmp_path / "s.py", tmp_path / "done"
    script.write_text(SCRIPT)
    command = f"{sys.executable} {script} {done} {closing}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    assert done.read_text() == "done"
    assert ended.returncode == 0 and "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr
