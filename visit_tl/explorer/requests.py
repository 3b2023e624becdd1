"""What a browser may ask for, read strictly: unknown names, wrong types and sizes are refused."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visit_tl.errors import InputError
from visit_tl.explorer import limits

Text = Annotated[str, Field(max_length=limits.CHARACTERS)]
Short = Annotated[str, Field(max_length=200)]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{24}(-heads|-effects)?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Change(_Strict):
    """One change of a run.

    Attributes:
        node: Id of the node, such as `L9H6`, `L9H6.v3`, `L3N100` or `L4.resid_post`.
        how: What is done to it; see `visit_tl.causal.change_hooks`.
        factor: For `scale`, the factor.
    """

    node: Short
    how: Literal["zero", "mean", "resample", "scale", "look away", "look only"]
    factor: Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)] = 0.0

    @property
    def pair(self) -> tuple[str, str | float]:
        """The change as `change_hooks` takes it."""
        return self.node, self.factor if self.how == "scale" else self.how


class Request(_Strict):
    """All that one picture depends on.

    Attributes:
        prompt: The text.
        model: Which of the session's models.
        chat: Whether the text is a message that the model's chat template is put around.
        bos: Whether a BOS goes before it; None is the model's own default.
        target: The token to follow; empty is the model's own prediction.
        position: Query position; negative ones count from the end.
        layers: First and last block; None is all.
        expand: Steps that memories are followed back.
        segments: Ranges of tokens that see each other, such as `0:8,8:15`; empty is causal.
        changes: What is changed in the run, all together.
        others: Prompts that `resample` (the first) and `mean` (all) take values from.
        saved: Key of a graph that was opened from a file; then nothing is run.
    """

    prompt: Text = ""
    model: Annotated[int, Field(ge=0, le=1)] = 0
    chat: bool = False
    bos: bool | None = None
    target: Short = ""
    position: Annotated[int, Field(ge=-(10**6), le=10**6)] = -1
    layers: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    expand: Annotated[int, Field(ge=0, le=limits.EXPAND)] = 0
    segments: Short = ""
    changes: Annotated[list[Change], Field(max_length=limits.CHANGES)] = []
    others: Annotated[list[Text], Field(max_length=limits.OTHERS)] = []
    saved: Key | None = None

    @property
    def key(self) -> str:
        """The same for the same request, and no other."""
        return hashlib.sha256(self.model_dump_json().encode("utf-8", "replace")).hexdigest()[:24]


class Runs(_Strict):
    """One picture, or two side by side.

    Attributes:
        runs: The requests; what the second differs in from the first is compared.
        same_target: Whether the second follows the target of the first, unless it names its own.
    """

    runs: Annotated[list[Request], Field(min_length=1, max_length=2)]
    same_target: bool = True


class Question(_Strict):
    """A question about one run.

    Attributes:
        what: `why` (with head, key and query), `lower` (what would lower the loss), `origin` (the
            strongest way to a node), or `circuit` (compare with a reference).
        run: The run that it is about.
        node: The head or node.
        key: The position that the head looked at.
        query: The position that looked; None is the picture's.
        reference: Name of a reference circuit.
    """

    what: Literal["why", "lower", "origin", "circuit"]
    run: Request
    node: Short = ""
    key: Annotated[int, Field(ge=0, le=10**6)] = 0
    query: Annotated[int, Field(ge=0, le=10**6)] | None = None
    reference: Short = ""


class Export(_Strict):
    """A file to keep.

    Attributes:
        form: Which.
        runs: The picture or pictures.
        same_target: As for `Runs`.
        theme: `light` or `dark`.
    """

    form: Literal["html", "json", "ipynb", "py", "export"]
    runs: Annotated[list[Request], Field(min_length=1, max_length=2)]
    same_target: bool = True
    theme: Literal["light", "dark"] = "light"


R = TypeVar("R", bound=_Strict)


def read(kind: type[R], data: Any) -> R:
    """Read what was asked.

    Raises:
        InputError: it does not have that form; the message names the place.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the request"
        place = re.sub(r"^runs\.([01])\.", lambda m: "second picture, " * int(m[1]), place)
        raise InputError(f"{place}: {first['msg'][:200]}") from None
