"""The arguments of public calls: one alias for each meaning, used wherever it is meant.

An alias is the static type for people and pyright, and beside it what `checked` holds the argument
against. What depends on the model (is there such a layer?) is asked where the model is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from visit_tl.arguments import plain
from visit_tl.arguments.kinds import Taken, Unchecked

_REFERENCE = "visit_tl.circuits.references:Reference"
_GRAPH = "visit_tl.graph.container:GraphData"
_TENSOR = "torch:Tensor"

# --- models, and what only they can read -----------------------------------------------------

Model = Annotated[Any, Unchecked("visit_tl.model tells what is a model", model=True)]
AnyScores = Annotated[Any, Unchecked("visit_tl.circuits.scores reads every form of scores")]
Circuit = Annotated[
    Any, Taken("a graph, a reference, or a list of edges or parts", "['L9H6']", "Many",
               (_GRAPH, _REFERENCE,
                "visit_tl.causal.circuit.candidates:Candidate"), plain.one_or_many),
]  # fmt: skip
ReferenceName = Annotated[
    str | Path,
    Taken("the name of a known circuit or a path", "'ioi-wang-2022'", "File", form=plain.path),
]
ModelName = Annotated[Any, Unchecked("load_model tells what it opens")]
Spelled = Annotated[Any, Unchecked("what reads a spelling says what is wrong with it")]
Foreign = Annotated[Any, Unchecked("the reader of that shape says what it lacks")]

# --- numbers -----------------------------------------------------------------------------------

Flag = Annotated[bool, Taken("True or False", "True", classes=(bool,), reads="Flag")]
Count = Annotated[int, Taken("an integer of at least 1", "5", "Count")]
Whole = Annotated[int, Taken("an integer of at least 0", "5", "Whole")]
Integer = Annotated[int, Taken("an integer", "0", "Integer")]
Seed = Annotated[int, Taken("an integer", "0", "AnyInteger")]
Number = Annotated[float, Taken("a finite number", "0.5", "Number")]
Budgets = Annotated[
    Sequence[float], Taken("a list of finite numbers", "[0.1, 0.5, 1.0]", "Numbers")
]
Neurons = Annotated[
    int | Sequence[int],
    Taken("an integer of at least 0, or two of them, (high, low)", "(18, 7)", "HighAndLow"),
]
Flags = Annotated[Sequence[bool], Taken("a list of True and False", "[True, False]", "Flags")]

# --- texts -------------------------------------------------------------------------------------

Word = Annotated[str, Taken("a text", classes=(str,))]
Name = Annotated[str, Taken("a name", classes=(str,))]
Names = Annotated[Sequence[str], Taken("a list of names", reads="Texts", form=plain.names)]
NameOrNames = Annotated[
    str | Sequence[str], Taken("a name or a list of names", reads="Texts", form=plain.names)
]
Kinds = Annotated[Any, Taken("a kind of node", "'head'", classes=(str,))]
How = Annotated[str, Taken("'resample', 'mean' or 'zero'", "'mean'", classes=(str,))]
Direction = Annotated[str, Taken("'noise' or 'denoise'", "'noise'", classes=(str,))]
Screen = Annotated[str, Taken("'attribution'", "'attribution'", classes=(str,))]
Preset = Annotated[str, Taken("'default' or 'paper'", "'paper'", classes=(str,))]
Check = Annotated[str, Taken("'one', 'all' or 'none'", "'all'", classes=(str,))]
Side = Annotated[str, Taken("'query' or 'key'", "'query'", classes=(str,))]
Theme = Annotated[str, Taken("'light' or 'dark'", "'dark'", classes=(str,))]
FigureKind = Annotated[
    str, Taken("'flow', 'heads', 'lens' or 'neurons'", "'heads'", classes=(str,))
]
BackwardKind = Annotated[str, Taken("'table', 'norms' or 'ranks'", "'norms'", classes=(str,))]
ReversedKind = Annotated[str, Taken("'norms' or 'maps'", "'maps'", classes=(str,))]
HeadInput = Annotated[str, Taken("'q', 'k' or 'v'", "'k'", classes=(str,))]
Unusable = Annotated[str, Taken("'raise' or 'skip'", "'skip'", classes=(str,))]
Schema = Annotated[str, Taken("'visit_tl' or 'neuronpedia'", "'neuronpedia'", classes=(str,))]
NumberName = Annotated[str, Taken("the name of a number", "'rank'", classes=(str,))]
File = Annotated[str | Path, Taken("a path", "'graph.json'", "File", form=plain.path)]

# --- what of a model is meant ------------------------------------------------------------------

Position = Annotated[int, Taken("one position, an integer", "-1", "Integer")]
Positions = Annotated[
    int | Iterable[int] | Literal["all"],
    Taken("a position, a list of positions or 'all'", "[0, -1]", "IntegersOrAll"),
]
Layers = Annotated[
    int | Iterable[int] | Literal["all"],
    Taken("a layer, a list of layers or 'all'", "[0, 1]", "IntegersOrAll"),
]
Layer = Annotated[int, Taken("one layer, an integer", "0", "Integer")]
Head = Annotated[int, Taken("one head, an integer", "0", "Integer")]
Token = Annotated[
    str | int, Taken("one token, as text or as id", "' Tokyo'", "Token", form=plain.token)
]
Tokens = Annotated[
    str | int | Sequence[str | int],
    Taken("a token as text or id, or a list of them", "[' Tokyo']", "TokenOrMany",
          form=plain.token),
]  # fmt: skip
if TYPE_CHECKING:
    from torch import Tensor

    PromptLike = str | Sequence[int] | Tensor
    PromptsLike = Sequence[str | Sequence[int] | Tensor] | Tensor
    PromptStream = Iterable[str | Sequence[int] | Tensor] | Tensor
    MeanOver = Sequence[str | Sequence[int] | Tensor]
else:
    PromptLike = Annotated[
        Any, Taken("a text, or the token ids of one prompt", "'The capital of Japan is'", "Prompt",
                   (_TENSOR,), plain.prompt, long=True),
    ]  # fmt: skip
    PromptsLike = Annotated[
        Any, Taken("a list of prompts, each a text or token ids", "['one', 'two']", "Prompts",
                   (_TENSOR,), plain.batch),
    ]  # fmt: skip
    PromptStream = Annotated[Any, Unchecked("each prompt is checked when its turn comes")]
    MeanOver = Annotated[
        Any,
        Taken("a list of prompts, each a text or token ids", "['one', 'two']", "Prompts",
              form=plain.prompts),
    ]  # fmt: skip
Parts = Annotated[
    str | Iterable[Any], Taken("a list of parts of the model", "['L9H6', 'm3']", "Many",
                               form=plain.one_or_many),
]  # fmt: skip

LensLike = Annotated[
    Any, Unchecked("lens_of says what a lens is, and what of it does not fit the model")
]
LensesByName = Annotated[Any, Unchecked("lens_of says what of each lens does not fit the model")]
LensData = Annotated[
    Any, Taken("a lens, as visit_tl.lenses.load or fit gives it",
               classes=("visit_tl.lenses.maps:Lens",)),
]  # fmt: skip
BlocksOfVectors = Annotated[
    int | Sequence[int],
    Taken("a block, or a list with one for each vector", "3", "IntegersOrAll"),
]
SegmentsLike = Annotated[
    Any, Unchecked("segments_of says what segments are, and which range does not fit")
]
SegmentsOfEach = Annotated[
    Any, Unchecked("segments_of_each says what segments are, and which do not fit")
]

FeatureModules = Annotated[
    Any, Unchecked("features.open says what an SAE is, and the model's hooks which of them fits")
]
FeatureLabels = Annotated[
    Any, Unchecked("explanations_of says what labels are, and which of them it cannot place")
]

# --- what is asked of runs ---------------------------------------------------------------------

_LOGITS = "a callable on logits [1, pos, d_vocab]"
_METRIC = "logit_difference(' Mary', ' John')"
MetricFunction = Annotated[
    Callable[[Any], Any], Taken(_LOGITS, _METRIC, "Function", form=plain.as_it_is)
]
TargetOrMetric = Annotated[
    str | int | Callable[[Any], Any],
    Taken("a token, as text or as id, or a metric", "' Paris'", "TokenOrFunction",
          form=plain.token_or_metric),
]  # fmt: skip
TargetsOrMetric = Annotated[
    str | int | Callable[[Any], Any] | Sequence[str | int | Callable[[Any], Any]],
    Taken("a token or a metric, or one for each prompt", "[' Paris', ' Rome']",
          "TokensOrFunctions", form=plain.tokens_or_metric),
]  # fmt: skip
MetricFunctions = Annotated[
    Callable[[Any], Any] | Sequence[Callable[[Any], Any]],
    Taken(f"{_LOGITS}, or one for each pair", _METRIC, "FunctionOrFunctions", form=plain.many),
]
PromptPairs = Annotated[
    Sequence[Any], Taken("a list of pairs of prompts", "[('clean', 'corrupted')]", "Many",
                         form=plain.many),
]  # fmt: skip
Hooks = Annotated[
    Sequence[tuple[str | Callable[[str], bool], Callable[..., Any]]],
    Taken("a list of pairs, the name of a hook and a function", "[('blocks.0.hook_attn_out', f)]",
          "Hooks", form=plain.hooks),
]  # fmt: skip
Cached = Annotated[
    Any, Taken("an ActivationCache, or a dict of tensors by hook", reads="Cache",
               form=plain.as_it_is),
]  # fmt: skip
Looks = Annotated[
    Sequence[tuple[str, str]],
    Taken("a list of pairs of names of positions", "[('END', 'IO')]", "Looks", form=plain.hooks),
]
Subsets = Annotated[
    Mapping[str, Iterable[Any]], Taken("a dict of lists of parts", "{'movers': ['L9H6']}",
                                       "Lists", form=plain.as_it_is),
]  # fmt: skip
Given = Annotated[
    Mapping[Any, Iterable[Any]], Taken("a dict of lists of parts by part", "{'L9H6': ['L10H0']}",
                                       "Lists", form=plain.as_it_is),
]  # fmt: skip
At = Annotated[
    str | Mapping[str, Any],
    Taken("a position's name, or a dict of heads by such names", "'END'", "At",
          form=plain.as_it_is),
]  # fmt: skip
EdgeScores = Annotated[
    Any, Taken("EdgeEffects, or a dict of numbers by edge", "{'L0H1->logits': 0.5}", "EdgeScores",
               ("visit_tl.causal.paths.edge_effects_result:EdgeEffects",), plain.as_it_is),
]  # fmt: skip

# --- tensors, whose shapes stand beside them in the signature ---------------------------------

TENSOR = Taken("a tensor", classes=(_TENSOR,))
TOKEN_IDS = Taken("token ids, a list or a tensor of them", "[464, 3139]", "Integers", (_TENSOR,))
if TYPE_CHECKING:
    Mask = Tensor
else:
    Mask = Annotated[Any, Taken("a tensor of 0 and 1", classes=(_TENSOR,), form=plain.mask)]
