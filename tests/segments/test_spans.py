"""Segments as data: where they come from, what is refused, and the masks that follow from them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import visit_tl as vt
from tests import tiny
from visit_tl.segments import Segments, batch_mask
from visit_tl.segments.masks import allowed, later
from visit_tl.segments.of_prompts import segments_of, segments_of_each


@st.composite
def spans(draw, size=12):
    """Ascending ranges that do not overlap, within `size` tokens."""
    cuts = sorted(draw(st.sets(st.integers(0, size), max_size=8)))
    pairs = list(itertools.pairwise(cuts))
    return [pair for pair in pairs if draw(st.booleans())]


def by_hand(ranges, length):
    """The mask, entry by entry."""
    mask = torch.zeros(length, length, dtype=torch.bool)
    for i in range(length):
        for j in range(length):
            together = any(a <= i < b and a <= j < b for a, b in ranges)
            mask[i, j] = j <= i or together
    return mask


@settings(deadline=None)
@given(spans(), st.integers(12, 15))
def test_the_mask_is_causal_or_in_one_segment(ranges, length):
    mask = Segments.from_spans(ranges).mask(length)
    assert mask.shape == (1, 1, length, length) and mask.dtype == torch.bool
    assert torch.equal(mask[0, 0], by_hand(ranges, length))


def test_segments_of_one_token_are_the_causal_mask_and_one_of_all_is_no_mask():
    assert torch.equal(
        Segments.from_spans([(i, i + 1) for i in range(5)]).mask()[0, 0],
        torch.ones(5, 5).tril().bool(),
    )
    assert bool(Segments.from_spans([(0, 5)]).mask().all())


@settings(deadline=None)
@given(spans(), st.integers(0, 13))
def test_the_last_rows_of_a_mask_are_made_without_the_others(ranges, first):
    whole = by_hand(ranges, 13)
    assert torch.equal(allowed(ranges, 13, first), whole[first:])
    assert torch.equal(later(ranges, 13, first), whole.triu(1)[first:])


def test_a_mask_shorter_than_its_segments_is_cut():
    whole = Segments.from_spans([(0, 3), (3, 6)])
    assert torch.equal(whole.mask(4), whole.mask()[:, :, :4, :4])


def test_neighbours_with_equal_labels_are_one_segment():
    found = Segments.from_labels(["system", "system", "user", None, None, "user", "user"])
    assert found.spans == ((0, 2), (2, 3), (5, 7))
    assert found.names == ("system", "user", "user")
    assert Segments.from_labels([None, None]).spans == ()


@pytest.mark.parametrize(
    ("separators", "expected"),
    [(9, ((0, 3), (3, 5))), ([9, 4], ((0, 3), (3, 4), (4, 5))), ((4, 9), ((0, 5),))],
)
def test_segments_end_with_their_separators(separators, expected):
    assert Segments.from_separators([1, 2, 9, 4, 9, 7, 7], separators).spans == expected


def test_a_separator_can_be_a_text_that_spans_tokens():
    class Letters:
        def decode(self, ids):
            return "".join("ab##\nxyz"[i] for i in ids)

    found = Segments.from_separators([0, 2, 3, 1, 2, 3, 4, 5], "##", tokenizer=Letters())
    assert found.spans == ((0, 3), (3, 6))
    assert found.tokens[:3] == ("a", "#", "#")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Segments.from_spans([(0, 3), (2, 5)]), "overlap"),
        (lambda: Segments.from_spans([(2, 2)]), "is empty"),
        (lambda: Segments.from_spans([(4, 2)]), "is empty"),
        (lambda: Segments.from_spans([(-1, 2)]), "before the prompt"),
        (lambda: Segments.from_spans([(0, 1, 2)]), "a pair of integers"),
        (lambda: Segments.from_spans([(0, 1.5)]), "a pair of integers"),
        (lambda: Segments.from_spans([("0", 1)]), "a pair of integers"),
        (lambda: Segments.from_spans(["01"]), "a pair of integers"),
        (lambda: Segments.from_spans([(0, True)]), "a pair of integers"),
        (lambda: Segments.from_spans([(0, float("nan"))]), "a pair of integers"),
        (lambda: Segments.from_spans([(0, 2)], names=["a", "b"]), "names"),
        (lambda: Segments.from_spans([(0, 9)]).check(8), "past the prompt"),
        (lambda: Segments.from_spans([(0, 9)]).with_tokens(["a"]), "past the prompt"),
        (lambda: Segments.from_separators([1, 2], 7), "nowhere in the prompt"),
        (lambda: Segments.from_separators([1, 2], "x"), "pass tokenizer="),
        (lambda: Segments.from_separators([1, 2], 1.5), "a separator is"),
        (lambda: Segments.from_separators([1, 2], "", tokenizer=tiny.tokenizer()), "is empty"),
        (lambda: batch_mask([Segments(())], [1, 2]), "1 segments but 2 lengths"),
        (lambda: batch_mask([Segments(())], [5], pad_to=4), "more than pad_to"),
        (lambda: batch_mask([[(0, 1)]], [5]), "not Segments"),
        (lambda: batch_mask([Segments.from_spans([(0, 6)])], [5]), "past the prompt"),
    ],
)
def test_what_is_no_segment_is_refused(call, message):
    with pytest.raises(vt.InputError, match=message):
        call()


def test_ranges_are_put_in_order_with_their_names():
    found = Segments.from_spans([(3, 5), (0, 2)], names=["user", "system"])
    assert (found.spans, found.names) == (((0, 2), (3, 5)), ("system", "user"))


def test_the_segment_of_a_position_and_a_shift_for_a_bos():
    found = Segments.from_spans([(1, 4)])
    assert [found.span_at(i) for i in range(5)] == [(0, 1), (1, 4), (1, 4), (1, 4), (4, 5)]
    assert found.shifted(1).spans == ((2, 5),)


def test_the_text_says_what_each_segment_holds():
    found = Segments.from_spans([(0, 2), (2, 3)], names=["system", "user"])
    found = found.with_tokens(["Be", " kind", "\n<b>", " ok"])
    assert str(found) == (
        "2 segments; 1 of 4 tokens are causal\n"
        "       0..1  system     Be kind\n"
        "          2  user       ⏎<b>"
    )
    assert found.to_dataframe()["text"].tolist() == ["Be kind", "\n<b>"]


# --- of one prompt, of several --------------------------------------------------------------------


def test_segments_ranges_and_functions_are_taken_for_a_prompt():
    ids = (5, 6, 7, 8)
    for spelled in (
        Segments.from_spans([(0, 2)]),
        [(0, 2)],
        [[0, 2]],
        lambda got: [(0, len(got) - 2)],
    ):
        assert segments_of(spelled, ids).spans == ((0, 2),)


def test_segments_of_another_prompt_are_refused():
    own = Segments.from_spans([(0, 2)]).with_tokens(["a", "b"], [5, 6])
    assert segments_of(own, (5, 6, 7)).spans == ((0, 2),)  # what continues it fits
    with pytest.raises(vt.InputError, match="at position 1 it has the token 6, this one 9"):
        segments_of(own, (5, 9, 7))


def test_several_prompts_get_one_entry_each_or_all_the_same():
    one = Segments.from_spans([(0, 2)])
    assert segments_of_each(one, 2) == [one, one]
    assert segments_of_each([(0, 2), (2, 3)], 2) == [[(0, 2), (2, 3)]] * 2
    assert segments_of_each([[(0, 2)], None], 2) == [[(0, 2)], None]
    assert segments_of_each(None, 3) == [None] * 3
    with pytest.raises(vt.InputError, match="2 prompts but 3 entries"):
        segments_of_each([one, one, one], 2)


# --- chat templates -------------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "<s>system\nbe kind</s>\n{% endif %}"
    "<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
CHAT = [
    {"role": "user", "content": "a b"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "d"},
]


class Chatting:
    """A tokenizer of single characters with a chat template."""

    def __init__(self, template):
        self.chat_template = template

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        import jinja2

        template = jinja2.Environment().from_string(self.chat_template)
        return template.render(messages=messages, add_generation_prompt=add_generation_prompt)

    def __call__(self, text, add_special_tokens, return_offsets_mapping):
        assert not add_special_tokens and return_offsets_mapping
        return {
            "input_ids": [ord(c) for c in text],
            "offset_mapping": [(i, i + 1) for i in range(len(text))],
        }

    def decode(self, ids):
        return "".join(map(chr, ids))


def texts_of(found):
    return ["".join(found.tokens[a:b]) for a, b in found.spans]


def test_messages_are_segments_by_the_tokenizers_own_template():
    found = Segments.from_chat(Chatting(CHATML), CHAT)
    assert found.names == ("system", "user", "user")
    assert texts_of(found) == ["<s>system\nbe kind</s>\n", "<s>user\na b</s>\n", "<s>user\nd</s>\n"]
    assert "".join(found.tokens).endswith("<s>assistant\n")
    every = Segments.from_chat(Chatting(CHATML), CHAT, roles=["assistant"], answer=False)
    assert texts_of(every) == ["<s>assistant\nc</s>\n"]


def test_a_system_prompt_of_the_callers_own_is_one_segment():
    found = Segments.from_chat(Chatting(CHATML), [{"role": "system", "content": "x"}, *CHAT])
    assert texts_of(found)[:2] == ["<s>system\nx</s>\n", "<s>user\na b</s>\n"]


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        ("", CHAT, "has no chat template"),
        ("{% for m in messages %}{{ m.content }};{% endfor %}", CHAT, "writes no roles"),
        ("{{ messages[-1].role }}:{{ messages[-1].content }}", CHAT, "one after the other"),
        (
            "{% if messages|length < 3 %}{{ 1 // 0 }}{% endif %}{{ messages[0].role }}",
            CHAT,
            "alone",
        ),
        (CHATML, [], "no messages"),
        (CHATML, [{"role": "user"}], "no dict with the texts"),
        (CHATML, ["hello"], "no dict with the texts"),
    ],
)
def test_a_template_whose_roles_cannot_be_found_is_refused(template, messages, message):
    with pytest.raises(vt.InputError, match=message):
        Segments.from_chat(Chatting(template), messages)


def test_roles_that_nobody_has_are_refused():
    with pytest.raises(vt.InputError, match=r"no message has one of the roles \['tool'\]"):
        Segments.from_chat(Chatting(CHATML), CHAT, roles=["tool"])


def test_a_tokenizer_without_offsets_is_refused():
    class Slow(Chatting):
        def __call__(self, text, **options):
            raise NotImplementedError("no offsets")

    with pytest.raises(vt.InputError, match="use a fast tokenizer"):
        Segments.from_chat(Slow(CHATML), CHAT)
    with pytest.raises(vt.InputError, match="has no chat template"):
        Segments.from_chat(tiny.native(), CHAT)


@pytest.mark.model
def test_the_real_models_template_writes_segments_that_are_its_own_text(smol):
    found = Segments.from_chat(smol, [{"role": "system", "content": "Be kind."}, *CHAT])
    assert found.names == ("system", "user", "user")
    for text in texts_of(found):
        assert text.startswith("<|im_start|>") and text.endswith("<|im_end|>\n")
    own = smol.tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be kind."}, *CHAT],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert "".join(found.tokens) == own
    graph = vt.flow_graph(smol, found.token_ids, segments=found, layers=[0, 1])
    assert graph.segments == found.spans and graph.bos_in_prompt


# --- batches --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(spans(6), min_size=1, max_size=3), st.sampled_from(["left", "right"]))
def test_padding_is_seen_by_nobody_and_sees_itself(ranges, side):
    lengths = [6 + i for i in range(len(ranges))]
    size = max(lengths) + 1
    masks = batch_mask(
        [Segments.from_spans(r) for r in ranges], lengths, pad_to=size, padding_side=side
    )
    assert masks.shape == (len(ranges), 1, size, size)
    for mask, own, n in zip(masks[:, 0], ranges, lengths, strict=True):
        first = 0 if side == "right" else size - n
        expected = torch.eye(size, dtype=torch.bool)
        expected[first : first + n, first : first + n] = by_hand(own, n)
        assert torch.equal(mask, expected)
