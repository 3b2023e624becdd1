"""Make and open a small random model of any family that TransformerLens lists."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch

from tests import tiny
from tests.families.overrides import CLASSES, NOT_MADE, SETTINGS, VARIANTS
from tests.families.sizes import shrunk


class CannotBuildError(Exception):
    """No small model of a family can be made here; the message says why."""


def registered() -> tuple[str, ...]:
    """The names of TransformerLens's own registry of architectures."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    return tuple(SUPPORTED_ARCHITECTURES)


def names() -> tuple[str, ...]:
    """The registered names and the variants whose family is registered, each once, sorted."""
    known = registered()
    return tuple(
        sorted(
            (*known, *(n for n, (family, _) in VARIANTS.items() if family in known)), key=str.lower
        )
    )


def hf_class(name: str) -> Any:
    """The class in transformers of a family.

    Raises:
        CannotBuildError: transformers has none.
    """
    import transformers

    family = family_of(name)
    if family in NOT_MADE:
        raise CannotBuildError(NOT_MADE[family])
    kind = getattr(transformers, CLASSES.get(family, family), None)
    if kind is None:
        raise CannotBuildError("its code is not part of transformers but comes with its weights")
    return kind


def family_of(name: str) -> str:
    """The registered name of a family or variant."""
    return VARIANTS.get(name, (name, {}))[0]


def config_of(name: str, **overrides: Any) -> Any:
    """A small configuration, attention written out so that patterns exist."""
    kind = hf_class(name)
    settings = VARIANTS[name][1] if name in VARIANTS else SETTINGS.get(kind.__name__, {})
    made = _small(kind.config_class, settings | overrides)
    for part in (made, *(getattr(made, sub, None) for sub in made.sub_configs)):
        if part is not None:
            part._attn_implementation = "eager"
    made.architectures = [family_of(name)]
    return made


def _small(config_class: Any, settings: dict[str, Any]) -> Any:
    defaults = config_class()
    words = {k: v for k, v in vars(defaults).items() if not k.startswith("_")}
    words |= {k: v for k, v in defaults.to_dict().items() if k not in words}
    # The class of a part is that of its default where the family may have several.
    inner = {
        sub: _small(type(part), settings.get(sub, {})).to_dict()
        for sub in config_class.sub_configs
        if (part := getattr(defaults, sub, None)) is not None
    }
    settings = {k: v for k, v in settings.items() if k not in inner}
    return config_class(**(shrunk(words, settings) | inner))


def hf_model(name: str, **overrides: Any) -> Any:
    """The Hugging Face model with random weights, in evaluation mode.

    Raises:
        CannotBuildError: it cannot be made from a configuration.
    """
    kind = hf_class(name)
    try:
        with torch.random.fork_rng(devices=[]):
            model = kind(config_of(name, **overrides)).eval()
    except Exception as error:  # each family fails in a way of its own
        raise CannotBuildError(
            f"transformers cannot make it: {type(error).__name__}: {error}"
        ) from error
    tiny.randomise(model)
    return model


def reads_text(hf: Any) -> bool:
    """Whether a model is a decoder of text: no encoder before it, and logits of words."""
    heads = callable(getattr(hf, "get_output_embeddings", None)) and hf.get_output_embeddings()
    return hf.main_input_name == "input_ids" and not hf.config.is_encoder_decoder and bool(heads)


def own_logits(hf: Any, ids: list[int]) -> torch.Tensor:
    """The Hugging Face model's logits, `[pos, d_vocab]`, before TransformerLens changes it.

    Raises:
        CannotBuildError: it does not run on a prompt of text.
    """
    try:
        with torch.no_grad():
            return hf(torch.tensor([ids])).logits[0].float()
    except Exception as error:
        raise CannotBuildError(
            f"it does not run on text in transformers: {type(error).__name__}: {error}"
        ) from error


def bridge(name: str, hf: Any = None) -> Any:
    """The family's small model as a raw TransformerBridge, in evaluation mode.

    Raises:
        CannotBuildError: transformers cannot make it, or TransformerLens cannot open it.
    """
    if name == "TransformerLensNative":
        return tiny.native()
    from transformer_lens.model_bridge import TransformerBridge

    hf = hf_model(name) if hf is None else hf
    # TransformerLens would replace an alias, such as gptj, by the name of a published model.
    with nothing_installed():
        try:
            return TransformerBridge.boot_transformers(
                f"tiny-{family_of(name)}",
                hf_model=hf,
                tokenizer=tiny.tokenizer(),
                hf_config_overrides={"architectures": [family_of(name)]},
            ).eval()
        except Exception as error:
            raise CannotBuildError(
                f"TransformerLens cannot open it: {type(error).__name__}: {error}"
            ) from error


def nothing_installed() -> Any:
    """TransformerLens must not install packages: for models of pictures it calls pip itself."""
    return mock.patch("subprocess.check_call", side_effect=OSError("tests install nothing"))
