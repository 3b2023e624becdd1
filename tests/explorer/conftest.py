"""An explorer of small models, its server, and a browser that looks at it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("starlette", reason="the extra explore is not installed")
pytest.importorskip("uvicorn", reason="the extra explore is not installed")

from tests.conftest import made
from visit_tl.explorer.guard import Guard
from visit_tl.explorer.jobs import Jobs
from visit_tl.explorer.server import Application
from visit_tl.explorer.session import Session
from visit_tl.explorer.start import Explorer

PROMPT = "a b c d"


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def session():
    """Two models of one tokenizer; their weights must be as they were at the end."""
    models = [made("native"), made("gpt2")]
    before = [weights(model) for model in models]
    yield Session(models, recipes=["model", "other_model"])
    for model, old in zip(models, before, strict=True):
        assert all(torch.equal(p, old[name]) for name, p in model.named_parameters())
        assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.fixture
def client(session):
    """A client of the application without a server, with the cookie."""
    from starlette.testclient import TestClient

    guard, jobs = Guard("127.0.0.1", 24), Jobs()
    guard.port = 8123
    app = Application(session, guard, jobs).app
    with TestClient(app, base_url="http://127.0.0.1:8123", follow_redirects=False) as opened:
        opened.guard = guard
        answer = opened.get(f"/?token={guard.new_token()}")
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        opened.headers["origin"] = "http://127.0.0.1:8123"
        yield opened
    jobs.close()


@pytest.fixture(scope="module")
def explorer(session):
    """A running server."""
    with Explorer(session, "127.0.0.1", 0) as running:
        yield running
