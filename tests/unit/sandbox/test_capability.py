"""What the machine can is tried out."""

import os
from pathlib import Path

import pytest

from agent.sandbox import capability, landlock, seccomp, syscalls


def script(folder: Path, code: str) -> str:
    path = folder / "bwrap"
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_bubblewrap_that_may_not_make_namespaces_is_not_used(open_folder: Path) -> None:
    assert capability.probe(script(open_folder, "exit 1")).bwrap is None


def test_bubblewrap_that_works_is_used(open_folder: Path) -> None:
    able = capability.probe(script(open_folder, "exit 0"))
    if able.is_root and able.account is None:
        pytest.skip("nobody here but root")
    assert able.bwrap == str(open_folder / "bwrap")


def test_bubblewrap_that_is_no_program_is_not_used(tmp_path: Path) -> None:
    assert capability.probe(str(tmp_path / "none")).bwrap is None


def test_account_is_only_for_root() -> None:
    able = capability.probe()
    assert able.is_root == (os.geteuid() == 0)
    assert able.account is None or (able.is_root and able.account.uid != 0)


@pytest.mark.parametrize("machine", [("riscv64",), ("i686",)])
def test_unknown_processor_has_neither_landlock_nor_filter(
    machine: tuple[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "h", "6.18", "v", machine[0])))
    assert syscalls.machine() is None
    assert landlock.abi() == 0
    assert not seccomp.available()
