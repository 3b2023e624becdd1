"""How long the stages of a picture take, over some prompts: p50 and p95 since the prompt was asked.

    python -m tests.explorer.latencies [--model smollm2-135m] [--clock cpu]

`wall` is what a person waits; on a machine that does other things too, `cpu` counts the seconds of
this process alone (with one thread: OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import visit_tl as vt
from visit_tl.explorer.requests import Request, Runs
from visit_tl.explorer.session import Session

PROMPTS = [
    f"{start} {middle}"
    for start in ("The capital of Japan", "My favourite city", "When Mary and John went home, it")
    for middle in ("is", "is the city of", "was never a good idea to think that", "had been")
]


def measured(session, clock):
    """By stage, the seconds of every prompt from the request to the page that would be sent."""
    found = {}
    for prompt in PROMPTS:
        began = clock()
        for event in session.run(Runs(runs=[Request(prompt=prompt)])):
            if "picture" in event:
                session.picture(event["picture"], "light")
            found.setdefault(event["stage"], []).append(clock() - began)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    asked = parser.parse_args()
    session = Session([vt.load_model(asked.model, verbose=False)])
    clock = time.perf_counter if asked.clock == "wall" else time.process_time
    list(session.run(Runs(runs=[Request(prompt="The first one opens what others need")])))
    info = Path("/proc/cpuinfo").read_text()
    name = next((x for x in info.splitlines() if "model name" in x), "?").partition(": ")[2]
    load = Path("/proc/loadavg").read_text().strip()
    print(f"{name}; {len(PROMPTS)} prompts, {asked.clock} seconds; load {load}")
    for stage, seconds in measured(session, clock).items():
        print(
            f"{stage:8} p50 {np.percentile(seconds, 50):.2f}  p95 {np.percentile(seconds, 95):.2f}"
        )


if __name__ == "__main__":
    main()
