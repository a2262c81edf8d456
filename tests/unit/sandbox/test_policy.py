"""What holds a program, by what the machine can."""

from dataclasses import replace

import pytest

from agent.sandbox.policy import Account, Capability, Mode, SandboxSpec, SandboxUnavailable, protections

WHOLE = Capability(landlock=7, seccomp=True, is_root=False)
NOBODY = Account("nobody", 65534, 65534)
SPEC = SandboxSpec()


def test_whole_machine_misses_nothing() -> None:
    assert protections(WHOLE, SPEC, Mode.STRICT).is_complete


@pytest.mark.parametrize(
    ("able", "missing", "reason"),
    [
        (replace(WHOLE, landlock=0), ("files", "other processes"), "no Landlock"),
        (replace(WHOLE, landlock=3), ("files", "other processes"), "Landlock ABI 3 and ABI 4 (Linux 6.7) is needed"),
        (replace(WHOLE, landlock=5), ("other processes",), "Linux 6.12"),
        (replace(WHOLE, seccomp=False), ("network", "system calls"), "seccomp"),
        (replace(WHOLE, is_root=True), ("unprivileged account",), "no account to drop to"),
    ],
)
def test_strict_refuses_in_one_sentence_what_best_effort_names(
    able: Capability, missing: tuple[str, ...], reason: str
) -> None:
    assert protections(able, SPEC, Mode.BEST_EFFORT).missing == missing
    with pytest.raises(SandboxUnavailable) as refused:
        protections(able, SPEC, Mode.STRICT)
    for word in (*missing, reason, "nothing was run", "best_effort"):
        assert word in str(refused.value)


@pytest.mark.parametrize("how", [{"is_root": True, "account": NOBODY}, {"bwrap": "/usr/bin/bwrap"}])
def test_signals_stay_inside_by_another_account_or_by_namespaces(how: dict[str, object]) -> None:
    able = replace(WHOLE, landlock=4, **how)  # pyright: ignore[reportArgumentType]
    assert protections(able, SPEC, Mode.STRICT).is_complete


def test_ports_need_landlock_while_no_network_does_not() -> None:
    able = replace(WHOLE, landlock=0)
    with_ports = SandboxSpec(network=True, ports=(443,))
    assert "network" not in protections(able, SPEC, Mode.BEST_EFFORT).missing
    assert "network" in protections(able, with_ports, Mode.BEST_EFFORT).missing


def test_host_view_takes_no_namespaces() -> None:
    able = replace(WHOLE, bwrap="/usr/bin/bwrap")
    assert "namespaces" in protections(able, SPEC, Mode.STRICT).applied
    assert "namespaces" not in protections(able, SandboxSpec(host_view=True), Mode.STRICT).applied


def test_off_holds_nothing_and_says_so() -> None:
    held = protections(WHOLE, SPEC, Mode.OFF)
    assert held.applied == ()
    assert held.missing == ("files", "network", "system calls", "other processes", "limits", "unprivileged account")


def test_ports_without_network_are_refused() -> None:
    with pytest.raises(ValueError, match="the network is off"):
        SandboxSpec(ports=(443,))


def test_relative_path_is_refused() -> None:
    with pytest.raises(ValueError, match="must be absolute"):
        SandboxSpec(write_paths=("data",))


def test_secrets_of_a_spec_are_not_shown() -> None:
    assert "xoxb-fake" not in repr(SandboxSpec(env={"TOKEN": "xoxb-fake"}))
