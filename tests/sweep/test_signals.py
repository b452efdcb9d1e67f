"""Signals of a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from cmkd.sweep.failures import ECHO_SECONDS

CLEAN_UP = """
import sys, time
from cmkd.sweep.failures import Interrupted, guarded_signals
with guarded_signals() as guard:
    try:
        print("ready", flush=True)
        time.sleep(30)
    except Interrupted as interruption:
        print("stopping", flush=True)
        time.sleep(float(sys.argv[1]))
        print("clean", flush=True)
        sys.exit(interruption.exit_code)
"""


def start(seconds: float, *before: str) -> subprocess.Popen[str]:
    """A process that waits for a signal and then cleans up for this long."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", CLEAN_UP, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A process inherits what is ignored, and these tests may run under nohup.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_echo_of_a_signal_does_not_cut_the_clean_up_short(signum, code):
    process = start(0.5)
    for _ in range(3):
        process.send_signal(signum)
        time.sleep(0.05)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (code, "stopping\nclean\n")


def test_a_second_wish_leaves_at_once():
    process = start(30.0)
    process.send_signal(signal.SIGTERM)
    time.sleep(ECHO_SECONDS + 0.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert (process.returncode, output) == (130, "stopping\n")


def test_a_hang_up_is_outlived_under_nohup():
    process = start(0.0, "nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143
