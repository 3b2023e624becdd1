"""Sweeps that are killed: runs in a process of its own, which forks and kills its children.

usage: python -m tests.sweeps.killed FOLDER. Prints as JSON how often a child was killed, and
whether the folder of a killed one is free.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests import tiny
from tests.sweeps.swept import STUDIES, files_of, prompts, sweep
from visit_tl.errors import FileError
from visit_tl.sweeps.run_folder import RunFolder

KILLS, PER_SHARD, N = 20, 2, 160


def child(work) -> int:
    """Fork a process that does the work; its exit code is 0 if the work ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def killed_again_and_again(model, folder: Path) -> dict:
    draw = random.Random(0)
    kills, pids = 0, []
    while True:
        pid = child(lambda: sweep(model, prompts(N), STUDIES, folder, per_shard=PER_SHARD))
        pids.append(pid)
        if kills < KILLS:
            time.sleep(draw.uniform(0.02, 0.25))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            continue
        if os.WEXITSTATUS(status) or kills >= KILLS:
            return {"kills": kills, "code": os.WEXITSTATUS(status)}
        # It was done before it could be killed: begin again with half of it gone.
        for mark in sorted((folder / "done").iterdir())[::2]:
            mark.unlink()


def two_at_once(folder: Path) -> dict:
    """A child holds the folder until it is killed."""
    lock = RunFolder(folder)
    reading, writing = os.pipe()

    def hold():
        with lock.locked():
            os.write(writing, b"held")
            time.sleep(60)

    pid = child(hold)
    os.read(reading, 4)
    found = {}
    try:
        with lock.locked():
            found["refused"] = ""
    except FileError as error:
        found["refused"] = str(error)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with lock.locked():
        found["free"] = True
    return found


if __name__ == "__main__":
    root, model = Path(sys.argv[1]), tiny.native()
    whole = sweep(model, prompts(N), STUDIES, root / "whole", per_shard=PER_SHARD)
    found = killed_again_and_again(model, root / "killed")
    again = sweep(model, prompts(N), STUDIES, root / "killed", per_shard=PER_SHARD)
    found["same"] = files_of(whole) == files_of(again)
    print(json.dumps({**found, **two_at_once(root / "held")}))
