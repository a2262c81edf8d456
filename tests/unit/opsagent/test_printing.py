"""What commands print for scripts: one fact a line, whatever people call themselves."""

import subprocess
import sys

from opsagent.scripts import row
from opsagent.terminal import visible


def test_no_field_passes_for_two_or_for_a_line_of_its_own() -> None:
    printed = row("id", "x\nid2\trotate_logs\t{}\t\x1b[31mAPI key")
    assert printed.count("\t") == 1
    assert "\n" not in printed
    assert "\x1b" not in printed


def test_hidden_and_turning_characters_are_shown() -> None:
    assert visible("a\u202eb\u200bc") == "a\\u202eb\\u200bc"


def test_a_reader_that_has_enough_ends_a_command_without_a_traceback() -> None:
    code = (
        "import sys; from opsagent import cli\n"
        "def much(_): print('x' * 1_000_000)\n"
        "cli._tools_list = much\n"
        "cli.main(['tools', 'list'])\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    run.stdout.read(10)
    run.stdout.close()
    assert run.stderr is not None
    said = run.stderr.read().decode()
    run.stderr.close()
    assert run.wait(30) == 1
    assert said == ""
