import io
import os
import subprocess
import sys

import pytest

from ryot_jax.runtime.console import Console, printable


class Terminal(io.TextIOWrapper):
    def __init__(self, encoding="utf-8"):
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, newline="")

    def isatty(self):
        return True

    def shown(self) -> str:
        self.flush()
        return self.bytes.getvalue().decode(self.encoding)


def test_lines_of_a_pipe_are_plain():
    stream = io.StringIO()
    console = Console(stream, {})
    console.line("[bold]loss[/bold] 3.1")
    assert console.display is None
    assert stream.getvalue() == "[bold]loss[/bold] 3.1\n"


@pytest.mark.parametrize(
    ("encoding", "environment", "rich"),
    [
        ("utf-8", {}, True),
        ("UTF8", {}, True),
        ("cp1252", {}, False),
        ("ascii", {}, False),
        ("utf-8", {"TERM": "dumb"}, False),
    ],
)
def test_only_a_utf8_terminal_gets_a_moving_display(encoding, environment, rich):
    assert (Console(Terminal(encoding), environment).display is not None) is rich


def test_a_terminal_line_is_neither_markup_nor_wrapped():
    stream = Terminal()
    Console(stream, {}).line("[red]" + "x" * 300)
    assert stream.shown() == "[red]" + "x" * 300 + "\n"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_the_encoding_lacks_becomes_a_question_mark(encoding):
    stream = Terminal(encoding)
    Console(stream, {}).line("ok \u2713 \U0001f600")
    assert stream.shown() == "ok ? ?\n"


def test_control_characters_of_data_do_not_reach_the_terminal():
    assert printable("a\x1b[2Jb\r\x07\u202e\nc\td") == "a?[2Jb???\nc\td"
    stream = io.StringIO()
    Console(stream, {}).line("\x1b[31m")
    assert "\x1b" not in stream.getvalue()


def test_no_color_is_honoured():
    assert Console(Terminal(), {"NO_COLOR": "1"}).display.no_color
    assert not Console(Terminal(), {}).display.no_color


def test_lines_go_to_the_log_in_utf8_even_when_the_stream_has_gone(tmp_path):
    stream = io.StringIO()
    console = Console(stream, {})
    console.log_to(tmp_path / "run.log")
    console.line("before \u2713")
    stream.close()
    console.line("after")
    console.close()
    assert (tmp_path / "run.log").read_text(encoding="utf-8") == "before \u2713\nafter\n"


PRINT_LINES = """
from ryot_jax.runtime.console import Console
console = Console()
for number in range(20000):
    console.line(f"line {number} \\u2713")
raise SystemExit(7)
"""


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_a_reader_that_leaves_does_not_end_the_program(encoding):
    process = subprocess.Popen(
        [sys.executable, "-c", PRINT_LINES],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding},
    )
    assert process.stdout.readline().startswith(b"line 0 ")
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (7, b"")


def test_closed_standard_output_does_not_end_the_program(run_python):
    code = "from ryot_jax.runtime.console import Console; Console().line('x'); sys.exit(7)"
    code = f"import sys; sys.stdout.close(); {code}"
    assert run_python(code, expect=7).stderr == ""
