"""One or two models, what was asked of them, and the graphs that are kept; without HTTP."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from visit_tl.causal.patching.change_hooks import LOOKS, REPLACED
from visit_tl.circuits.known_circuits import available, load
from visit_tl.errors import GraphError, InputError
from visit_tl.escaping import visible
from visit_tl.explorer import changes, keep, limits, questions
from visit_tl.explorer.jobs import Event
from visit_tl.explorer.requests import Export, Question, Request, Runs, read
from visit_tl.explorer.stages import Run, bos, chips, prompt_text, stages
from visit_tl.flow import FlowGraph
from visit_tl.graph.descriptions import heading
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView
from visit_tl.view.page.document import page

T = TypeVar("T")


class Kept(Generic[T]):
    """The last values by key, at most so many; may be used from several threads."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._values: OrderedDict[str, T] = OrderedDict()

    def get(self, key: str) -> T | None:
        """The value, which thereby is the newest; None if it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: str, value: T) -> None:
        """Keep a value and drop the oldest."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)

    def __len__(self) -> int:
        return len(self._values)


class Session:
    """What the explorer is about.

    Args:
        models: One model, or two that are compared.
        prompt: The prompt that the page opens with.
        recipes: How each model is opened in Python, for code that is copied.

    Raises:
        ModelError: a model cannot be taken apart.
    """

    def __init__(
        self, models: Sequence[Any], prompt: str = "", recipes: Sequence[str] = ()
    ) -> None:
        self.views = [ModelView(model) for model in models]
        self.recipes = [*recipes, *["model"] * (len(self.views) - len(recipes))]
        self.prompt = prompt
        self.graphs: Kept[FlowGraph] = Kept(limits.KEPT)
        self.opened: Kept[FlowGraph] = Kept(limits.KEPT // 2)
        self.states: Kept[dict[str, Any]] = Kept(4 * limits.KEPT)
        self._pages: Kept[bytes] = Kept(limits.PAGES)

    # --- what is quick -------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """What the page needs to know before anything is asked."""
        return {
            "models": [_facts(view) for view in self.views],
            "prompt": self.prompt,
            "hows": [*REPLACED, "scale", *LOOKS],
            "references": [[name, f"{name} ({load(name).model})"] for name in available()],
            "limits": {
                "characters": limits.CHARACTERS,
                "tokens": limits.TOKENS,
                "expand": limits.EXPAND,
                "changes": limits.CHANGES,
                "file": limits.FILE,
            },
        }

    def tokens(self, data: Any) -> dict[str, Any]:
        """The tokens of a prompt while it is typed.

        Raises:
            InputError: it is too long, or not a request.
        """
        asked = read(Request, data)
        if not asked.prompt:
            return {"tokens": [], "count": 0}
        view = self.view(asked)
        prompt = self._encoded(view, asked)
        return {"tokens": chips(view, prompt, limits.TYPED), "count": len(prompt.ids)}

    def view(self, asked: Request) -> ModelView:
        """The model of a request.

        Raises:
            InputError: the session has no second one.
        """
        if asked.model >= len(self.views):
            raise InputError("this session has one model; give two to compare them")
        return self.views[asked.model]

    def _encoded(self, view: ModelView, asked: Request) -> Prompt:
        # A fast tokenizer refuses to be used while another thread changes its settings.
        for _ in range(5):
            try:
                return view.encode(prompt_text(view, asked), bos(asked))
            except RuntimeError:
                time.sleep(0.02)
        return view.encode(prompt_text(view, asked), bos(asked))

    def picture(self, key: str, theme: str) -> bytes:
        """A kept graph as the page for the frame.

        Raises:
            GraphError: it is not kept any more.
        """
        name = f"{key} {theme}"
        if (found := self._pages.get(name)) is None:
            found = page(self.graph(key), theme=theme, framed=True).encode(
                "utf-8", "backslashreplace"
            )
            self._pages.put(name, found)
        return found

    def graph(self, key: str) -> FlowGraph:
        """A kept graph.

        Raises:
            GraphError: it is not kept any more.
        """
        found = self.graphs.get(key)
        found = self.opened.get(key) if found is None else found
        if found is None:
            raise GraphError("this picture was dropped to save memory; ask for it again")
        return found

    def open(self, content: bytes) -> dict[str, Any]:
        """Take a saved graph in, to be shown.

        Raises:
            GraphError: it is no graph.
            InputError: it is too large.
        """
        graph = keep.opened(content)
        asked = Request(prompt=graph.prompt[: limits.CHARACTERS], saved=keep.key_of(content))
        self.opened.put(str(asked.saved), graph)
        return {"request": asked.model_dump()}

    def kept_file(self, data: Any) -> tuple[str, str, bytes]:
        """A file to keep: its name, its media type and its content.

        Raises:
            InputError: it is not a form that there is.
            GraphError: the graph was dropped.
        """
        asked = read(Export, data)
        if asked.form in ("ipynb", "py"):
            return keep.kept(asked, [], self.recipes)
        keys = [run.saved or run.key for run in self.paired(asked.runs, asked.same_target)]
        return keep.kept(asked, [self.graph(key) for key in keys], self.recipes)

    # --- what is heavy -------------------------------------------------------------------------

    def work(self, what: str, data: Any) -> Callable[[], Iterator[Event]]:
        """Work for `jobs.Job`: `run` or `ask`.

        Raises:
            InputError: there is no such work, or it is not asked in its form.
            GraphError: a question is about a file that was dropped.
        """
        if what == "run":
            runs = read(Runs, data)
            for run in runs.runs:
                self.view(run)
            return lambda: self.run(runs)
        if what == "ask":
            question = read(Question, data)
            if question.run.saved is not None:
                graph = self.graph(question.run.saved)
                return lambda: questions.of_file(question, graph)
            view = self.view(question.run)
            return lambda: questions.answer(view, question, self.graphs.get(question.run.key))
        raise InputError(f"there is no work {what[:40]!r}; there are run and ask")

    def run(self, asked: Runs) -> Iterator[Event]:
        """The stages of one or two pictures, then what differs."""
        found: list[FlowGraph] = []
        for slot, run in enumerate(asked.runs):
            target = found[0].target_id if found and asked.same_target else None
            for event in self._one(run, target):
                graph = event.pop("graph", None)
                if graph is not None:
                    found.append(graph)
                yield {"slot": slot, **event}
        if len(found) < 2:
            return
        clean, other = asked.runs
        if other.changes and other.saved is None and not clean.changes:
            view, target = self.view(other), found[0].target_id
            effects = changes.measured(view, Run.of(view, clean, target), other, target)
            key = f"{self.followed(other, target).key}-effects"
            self.graphs.put(key, changes.with_effects(found[0], effects))
            yield {"stage": "effects", "slot": 0, "picture": key, "effects": effects}
        yield {"stage": "diff", "diff": changes.difference(*found)}

    def _one(self, asked: Request, target: int | None) -> Iterator[Event]:
        started = time.perf_counter()

        def done(stage: str, **more: Any) -> Event:
            return {"stage": stage, "seconds": time.perf_counter() - started, **more}

        if asked.saved is not None:
            graph = self.graph(asked.saved)
            yield done("file", **_of_file(graph))
            yield done("whole", picture=asked.saved, graph=graph, **_about(graph))
            return
        key = self.followed(asked, target).key
        if (known := self.graphs.get(key)) is not None and (told := self.states.get(key)):
            yield done("states", **told)
            yield done("whole", picture=key, graph=known, **_about(known))
            return
        run = Run.of(self.view(asked), asked, target)
        for stage, made in stages(run):
            if stage == "states":
                told = {"tokens": chips(run.view, run.prompt), "position": run.position, **made}
                self.states.put(key, told)
                yield done("states", **told)
                continue
            name = key if stage == "whole" else f"{key}-heads"
            self.graphs.put(name, made)
            more = {"graph": made} if stage == "whole" else {}
            yield done(stage, picture=name, **_about(made), **more)

    def followed(self, asked: Request, target: int | None) -> Request:
        """The request with the token that it follows; a picture of another target is another."""
        if target is None or asked.target or asked.saved is not None:
            return asked
        return asked.model_copy(update={"target": f"\0{target}"})

    def paired(self, runs: Sequence[Request], same_target: bool) -> list[Request]:
        """The requests by whose keys the graphs of `run` are kept.

        Raises:
            GraphError: the first graph was dropped.
        """
        if len(runs) < 2 or not same_target or runs[1].saved is not None:
            return list(runs)
        first = self.graph(runs[0].saved or runs[0].key)
        return [runs[0], self.followed(runs[1], first.target_id)]


def _facts(view: ModelView) -> dict[str, Any]:
    tokenizer = getattr(view.model, "tokenizer", None)
    return {
        "name": view.name,
        "layers": view.n_layers,
        "heads": view.n_heads,
        "vocabulary": view.d_vocab,
        "context": view.n_ctx,
        "chat": bool(getattr(tokenizer, "chat_template", None)),
        "adapters": list(view.adapters.names),
    }


def _of_file(graph: FlowGraph) -> dict[str, Any]:
    """What a saved graph knows of its run; its tokens and target are its own, not the session's."""
    return {
        "tokens": [
            {"text": visible(token), "bos": i == 0 and graph.prepend_bos}
            for i, token in enumerate(graph.tokens)
        ],
        "position": graph.position,
        "model": graph.model,
        "target": visible(graph.target),
    }


def _about(graph: FlowGraph) -> dict[str, Any]:
    words = heading(graph)
    return {
        "nodes": len(graph.nodes),
        "edges": len(graph.edges),
        "words": {
            name: str(words[name]) for name in ("model", "target", "hidden") if name in words
        },
        "error": max(graph.residual_error.values(), default=0.0),
        "patched": list(graph.patched),
    }
