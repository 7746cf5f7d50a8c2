from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_sft.errors import UserError
from edge_sft.slots.lock import exclusive

HOLD = """
import sys, time
from pathlib import Path
from edge_sft.slots.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_in_words(tmp_path: Path) -> None:
    with exclusive(tmp_path / "deploy.lock"):
        with pytest.raises(UserError, match=r"another deploy or rollback \(process \d+\)"):
            with exclusive(tmp_path / "deploy.lock"):
                pass
    with exclusive(tmp_path / "deploy.lock"):
        pass


def test_a_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "deploy.lock"
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {child.pid}"), exclusive(path):
            pass
        child.kill()
        child.wait()
    assert path.exists()
    with exclusive(path):
        pass


def test_the_lock_is_let_go_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "deploy.lock"):
        raise ZeroDivisionError
    with exclusive(tmp_path / "deploy.lock"):
        pass
