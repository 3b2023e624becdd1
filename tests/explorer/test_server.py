"""The server: who may ask, how much, and that nothing typed becomes markup."""

import json
import re

import pytest
from starlette.requests import Request

from tests.explorer.conftest import PROMPT
from visit_tl.explorer import limits
from visit_tl.explorer.guard import Guard, is_loopback

HOSTILE = "</script><script>alert(1)</script>\u202e\0<img src=x onerror=alert(1)>"


def run(client, *runs, owner="abcdefgh12"):
    body = json.dumps({"owner": owner, "asked": {"runs": list(runs)}})
    answer = client.post("/api/run", content=body)
    return answer, [json.loads(line) for line in answer.text.splitlines()]


def test_a_token_is_exchanged_once_for_a_cookie_that_scripts_cannot_read(client):
    token = client.guard.new_token()
    client.cookies.clear()
    answer = client.get(f"/?token={token}")
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303 and "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert token not in cookie and answer.headers["referrer-policy"] == "no-referrer"
    client.cookies.clear()
    again = client.get(f"/?token={token}")
    assert again.status_code == 403 and "set-cookie" not in again.headers
    for other in ("", "%C3%A9", "%ED%A0%80", "%FF", "a&token=b", "x" * 5000):
        assert client.get(f"/?token={other}").status_code == 403


@pytest.mark.parametrize("path", ["/", "/explorer.js", "/explorer.css", f"/picture/{'0' * 24}"])
def test_nothing_is_given_without_the_cookie(client, path):
    assert client.get(path).status_code in (200, 410)
    client.cookies.clear()
    assert client.get(path).status_code == 403
    client.cookies.set(client.guard.cookie, "guess")
    assert client.get(path).status_code == 403
    assert client.post("/api/about", content="{}").status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example:8123"}, 421),
        ({"host": "127.0.0.1:9999"}, 421),
        ({"host": "127.0.0.1.evil.example:8123"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://127.0.0.1:8123"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_other_names_and_other_pages_are_refused(client, headers, status):
    assert client.post("/api/about", content="{}").status_code == 200
    assert client.post("/api/about", content="{}", headers=headers).status_code == status


def test_a_request_that_does_not_say_from_where_is_refused(client):
    del client.headers["origin"]
    assert client.post("/api/about", content="{}").status_code == 403


def test_the_server_goes_by_addresses_only_where_it_is_asked_to_be_reached():
    for host, given, known in (
        ("127.0.0.1", "192.168.1.2:80", False),
        ("0.0.0.0", "192.168.1.2:80", True),
        ("0.0.0.0", "evil.example:80", False),
        ("box.local", "box.local:80", True),
    ):
        guard = Guard(host, 1)
        guard.port = 80
        request = Request({"type": "http", "headers": [(b"host", given.encode())]})
        assert (given in guard._hosts(request)) is known
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("box.local")


def test_the_document_allows_its_own_script_alone(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy and "default-src 'none'" in policy
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert re.findall(r"<script(?! src=)", answer.text) == []
    script = client.get("/explorer.js").text
    for word in ("eval(", "innerHTML", "document.write", "new Function", "http://", "https://"):
        assert word not in script, word


def test_a_picture_runs_no_script_but_the_pages_own(client):
    _, events = run(client, {"prompt": PROMPT})
    whole = next(event for event in events if event["stage"] == "whole")
    answer = client.get(f"/picture/{whole['picture']}?theme=dark")
    policy = answer.headers["content-security-policy"]
    assert re.search(r"script-src 'sha256-[^ ]+';", policy) and "sandbox allow-scripts" in policy
    assert "unsafe-inline" not in re.search(r"script-src [^;]*", policy)[0]
    assert 'data-theme="dark"' in answer.text and "const FRAMED = true" in answer.text
    assert client.get(f"/picture/{whole['picture']}?theme=x").status_code == 404
    assert client.get("/picture/..%2f..%2fetc").status_code == 404
    assert client.get(f"/picture/{'0' * 24}").status_code == 410


def test_a_hostile_prompt_is_text(client, session):
    text = "a b" + HOSTILE
    answer = client.post("/api/tokens", content=json.dumps({"prompt": text}))
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    runs = [{"prompt": "a b", "target": HOSTILE[:190]}, {"prompt": "a\ud800"}]
    for one in runs:
        answer, events = run(client, one)
        assert answer.headers["content-type"].startswith("application/")
        assert events[-1]["stage"] == "refused", events
    session_text = session.kept_file({"form": "py", "runs": [{"prompt": text}]})[2].decode()
    names = {}
    line = next(line for line in session_text.splitlines() if line.startswith("prompt = "))
    exec(line, names)
    assert names["prompt"] == text


def test_a_hostile_file_is_text_or_refused(client):
    run(client, {"prompt": PROMPT})
    asked = {"form": "json", "runs": [{"prompt": PROMPT}]}
    graph = json.loads(client.post("/api/keep", content=json.dumps(asked)).content)
    graph["prompt"] = graph["model"] = HOSTILE.replace("\0", "")
    graph["tokens"][1] = "</script><b>"
    opened = client.post("/api/open", content=json.dumps(graph))
    _, events = run(client, opened.json()["request"])
    page = client.get(f"/picture/{events[1]['picture']}").text
    assert "<script>alert" not in page and "<img" not in page and "</script><b>" not in page
    for content in (b"", b"{}", b"[1]", b"\xff", b'{"schema": 3}', b"{" * 10000):
        answer = client.post("/api/open", content=content)
        assert answer.status_code == 400 and answer.json()["stage"] == "refused", content


def test_sizes_are_limited(client, monkeypatch):
    large = json.dumps({"prompt": "a" * limits.BODY})
    assert client.post("/api/tokens", content=large).status_code == 413
    monkeypatch.setattr(limits, "FILE", 1000)
    assert client.post("/api/open", content=b" " * 1001).status_code == 413
    client.guard._most = 0
    assert client.post("/api/about", content="{}").status_code == 429


@pytest.mark.parametrize("body", [b"", b"[]", b"nil", b'{"owner": "x", "asked": {}}',
    b'{"owner": "abcdefgh12", "asked": {"runs": []}}', b'{"owner": 3, "asked": {}}',
    b'{"asked": {}}', b"\xff\xfe"])  # fmt: skip
def test_what_is_no_request_is_refused_in_words(client, body):
    for call in ("run", "ask", "keep"):
        answer = client.post(f"/api/{call}", content=body)
        assert answer.status_code == 400 and answer.json()["why"]
    assert client.post("/api/eval", content=b"{}").status_code == 404
    assert client.get("/api/about").status_code == 405
