"""Cancel in a run of two real processes."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ntkpredict.progress.cancel import Cancel


def test_processes_stop_after_the_same_step():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    script = Path(__file__).with_name("several.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, address, str(index)], stdout=subprocess.PIPE, text=True
        )
        for index in range(2)
    ]
    try:
        steps = [process.communicate(timeout=120)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [told[-2:] for told in steps] == [["20", "7"]] * 2  # without and with an agreement


def test_a_checkpoint_that_fails_elsewhere_lets_all_go_on():
    cancel = Cancel(lambda: None, agree=lambda flag: True)
    cancel.settle()
    assert cancel.asked
    with pytest.warns(RuntimeWarning, match="the checkpoint failed, training goes on: in another"):
        cancel.carry_out()
    assert not cancel.done
