"""How the explorer begins and ends: one call, one command, and nothing that stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from typer.testing import CliRunner

import visit_tl as vt
from tests.conftest import made
from tests.explorer import soak
from visit_tl import InputError
from visit_tl.cli import app
from visit_tl.explorer.start import Explorer

ROOT = Path(__file__).parents[2]
BEGIN = (
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and so it is in here.
    "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from tests import tiny\nimport visit_tl as vt\n"
    "e = vt.explore(tiny.native(), 'a b c', browser=False)\n"
    "print(e.address, flush=True)\ne.wait()\nprint('ended', flush=True)\n"
)


def visitor():
    return urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))


def test_one_call_serves_the_page_and_close_ends_it():
    explorer = vt.explore(made("native"), "a b", browser=False)
    address, browser = explorer.address, visitor()
    assert address.startswith("http://127.0.0.1:") and explorer.address != address
    page = browser.open(address).read()
    assert b"/explorer.js" in page
    with pytest.raises(urllib.error.HTTPError, match="403"):
        visitor().open(address)
    explorer.close()
    with pytest.raises(urllib.error.URLError):
        browser.open(address.partition("?")[0], timeout=5)
    assert "native" in repr(explorer)


def test_elsewhere_than_on_loopback_it_warns(capsys):
    vt.explore(made("native"), browser=False, host="0.0.0.0").close()
    assert "other machines reach it" in capsys.readouterr().err
    vt.explore(made("native"), browser=False).close()
    assert capsys.readouterr().err == ""


def test_where_it_cannot_listen_it_says_so():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1, port {port}"):
            vt.explore(made("native"), browser=False, port=port)
    with pytest.raises(InputError, match="a port is"):
        vt.explore(made("native"), browser=False, port=70000)
    with pytest.raises(InputError, match="cannot listen on no.such.host"):
        vt.explore(made("native"), browser=False, host="no.such.host.invalid")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_server_leaves_nothing_behind(tmp_path, end):
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT),
             "VISIT_TL_ATLAS": "memory"},
    )  # fmt: skip
    address = process.stdout.readline().strip()
    browser = visitor()
    browser.open(address).read()
    origin = address.partition("/?")[0]
    body = b'{"owner": "abcdefgh", "asked": {"runs": [{"prompt": "a b c"}]}}'
    request = urllib.request.Request(f"{origin}/api/run", body, {"Origin": origin})
    assert b'"whole"' in browser.open(request).read()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    assert children == ""
    process.send_signal(end)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == (0 if end == signal.SIGINT else -signal.SIGKILL)
    assert said == ("ended\n" if end == signal.SIGINT else "")
    # The small models' own tokenizer is written where they are made.
    assert [p.name for p in tmp_path.iterdir() if "visit-tl-tokenizer" not in p.name] == []
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(origin.rpartition(":")[2])))


def test_the_command_opens_the_browser_and_prints_the_address(monkeypatch):
    opened = []
    monkeypatch.setattr("visit_tl.model.load.load_model", lambda *args, **options: made("native"))
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(Explorer, "wait", Explorer.close)
    done = CliRunner().invoke(app, ["explore", "--prompt", "a b"])
    assert done.exit_code == 0 and opened[0] == done.output.splitlines()[0]
    assert "Ctrl-C" in done.output
    done = CliRunner().invoke(app, ["explore", "--no-browser"])
    assert done.exit_code == 0 and len(opened) == 1
    done = CliRunner().invoke(app, ["explore", "--no-browser", "--port", "70000"])
    assert done.exit_code == 1 and "a port is 0..65535" in done.output


@pytest.mark.browser
def test_random_interactions_in_two_tabs_end_in_no_error(browser):
    with soak.Server() as server:
        done, memory, errors = soak.soak(browser, server, 16, 2, 0, soak.WORDS["tiny"], seed=4)
    assert errors == [] and sum(done.values()) == 16
    assert memory[-1] < memory[0] + 300
