"""Files of lenses are read as they were written or refused with the reason; nothing is run."""

import dataclasses
import json
import os
import pickle
import re

import pytest
import torch
from jaxtyping import TypeCheckError
from safetensors.torch import save_file

import visit_tl as vt
from tests.lenses.made_lenses import affine, matrices
from visit_tl import FileError, InputError
from visit_tl.lenses import Lens


def artifact(maps, dtype=torch.float16, **changed):
    """What TransformerLens's `JacobianLens.save` writes."""
    payload = {
        "J": {block: matrix.to(dtype) for block, matrix in maps.items()},
        "n_prompts": 7,
        "source_layers": sorted(maps),
        "d_model": next(iter(maps.values())).shape[0],
        "metadata": {"model_name": "gpt2", "target_layer": len(maps), "corpus": "letters"},
    }
    return payload | changed


def written(path, payload):
    torch.save(payload, path)
    return path


def tuned_folder(folder, n_layers=2, width=16, parameters="params.pt", prefix="", **config):
    """What tuned-lens's `TunedLens.save` writes."""
    folder.mkdir(exist_ok=True)
    stream = torch.Generator().manual_seed(5)
    state = {}
    for i in range(n_layers):
        state[f"{prefix}{i}.weight"] = torch.randn(width, width, generator=stream) / 9
        state[f"{prefix}{i}.bias"] = torch.randn(width, generator=stream)
    if parameters.endswith(".pt"):
        torch.save(state, folder / parameters)
    else:
        save_file(state, str(folder / parameters))
    facts = {"base_model_name_or_path": "gpt2", "d_model": width, "bias": True,
             "num_hidden_layers": n_layers, "lens_type": "linear_tuned_lens"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(facts | config))
    return state


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_artifact_of_any_float_type_is_read_as_float32(tmp_path, dtype):
    maps = matrices(16, 3)
    lens = vt.lenses.load(written(tmp_path / "lens.pt", artifact(maps, dtype)))
    assert (lens.name, lens.model, lens.n_layers, lens.raw) == ("Jacobian lens", "gpt2", 4, True)
    assert lens.facts["n_prompts"] == 7 and lens.facts["corpus"] == "letters"
    assert lens.blocks == (0, 1, 2) and lens.d_model == 16
    for block, matrix in maps.items():
        assert lens.maps[block].dtype == torch.float32
        torch.testing.assert_close(lens.maps[block], matrix.to(dtype).float(), rtol=0, atol=0)


def test_an_artifact_without_metadata_and_a_checkpoint_are_read(tmp_path):
    maps = matrices(16, 2)
    bare = {"J": maps, "n_prompts": 3, "source_layers": [0, 1], "d_model": 16}
    lens = vt.lenses.load(written(tmp_path / "bare.pt", bare))
    assert (lens.model, lens.n_layers) == (None, None)
    sums = {block: matrix * 4 for block, matrix in maps.items()}
    checkpoint = {"jacobian_sum": sums, "n_done": 4, "next_idx": 4, "source_layers": [0, 1],
                  "target_layer": 2, "skip_first": 16}  # fmt: skip
    summed = vt.lenses.load(written(tmp_path / "checkpoint.pt", checkpoint))
    assert summed.n_layers == 3 and summed.facts["n_prompts"] == 4
    for block, matrix in maps.items():
        torch.testing.assert_close(summed.maps[block], matrix)


def test_what_transformer_lens_saved_is_what_it_holds(tmp_path):
    tools = pytest.importorskip("transformer_lens.tools.analysis")
    if not hasattr(tools, "JacobianLens"):
        pytest.skip("JacobianLens came with TransformerLens 4")
    theirs = tools.JacobianLens(matrices(16, 2), n_prompts=2, d_model=16, metadata={"corpus": "x"})
    theirs.save(str(tmp_path / "theirs.pt"), dtype=torch.float32)
    lens = vt.lenses.load(tmp_path / "theirs.pt")
    assert lens.facts["corpus"] == "x" and lens.raw
    for block, matrix in theirs.jacobians.items():
        assert torch.equal(lens.maps[block], matrix)


@pytest.mark.parametrize("parameters", ["params.pt", "params.safetensors"])
@pytest.mark.parametrize("prefix", ["", "layer_translators."])
def test_translator_i_of_a_tuned_lens_is_of_the_state_before_block_i(tmp_path, parameters, prefix):
    state = tuned_folder(tmp_path / "tuned", parameters=parameters, prefix=prefix)
    lens = vt.lenses.load(tmp_path / "tuned")
    assert (lens.name, lens.model, lens.n_layers) == ("tuned lens", "gpt2", 2)
    assert lens.blocks == (-1, 0)
    h = torch.randn(1, 16, generator=torch.Generator().manual_seed(6))
    for i in range(2):
        weight, bias = state[f"{prefix}{i}.weight"], state[f"{prefix}{i}.bias"]
        wanted = h + torch.nn.functional.linear(h, weight, bias)
        torch.testing.assert_close(lens.carry(h, [i - 1], [True]), wanted)


def test_a_saved_lens_is_loaded_as_it_was(tmp_path):
    lens = dataclasses.replace(affine(16, 2), model="gpt2", n_layers=3, facts={"corpus": "x"})
    path = vt.lenses.save(lens, tmp_path / "a.safetensors")
    again = vt.lenses.load(path)
    assert again.digest == lens.digest and again.record == lens.record
    for name in ("name", "model", "n_layers", "raw", "facts"):
        assert getattr(again, name) == getattr(lens, name)
    with pytest.raises(FileError, match="exists"):
        vt.lenses.save(lens, path)
    vt.lenses.save(lens, path, overwrite=True)
    with pytest.raises(FileError, match="suffix"):
        vt.lenses.save(lens, tmp_path / "a.pt")


def test_what_can_be_made_into_a_lens_can_be_saved_and_what_cannot_is_refused(tmp_path):
    one = torch.eye(4)
    shared = Lens("one", dict.fromkeys(range(3), one), {0: one[0], 1: one[0]})
    again = vt.lenses.load(vt.lenses.save(shared, tmp_path / "shared.safetensors"))
    assert again.digest == shared.digest
    odd = Lens("odd", {0: one}, facts={"path": tmp_path})
    again = vt.lenses.load(vt.lenses.save(odd, tmp_path / "odd.safetensors"))
    assert again.facts == {"path": str(tmp_path)}
    for facts in ({"loss": torch.nan}, {"a": {(1, 2): 3}}):
        with pytest.raises(InputError, match="facts of <odd: 1 maps of 4 x 4> cannot be written"):
            vt.lenses.save(dataclasses.replace(odd, facts=facts), tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": None}, "the name of a lens must be a text, got None"),
        ({"name": ""}, "the name of a lens is empty"),
        ({"maps": [torch.eye(4)]}, "the maps of a lens must be a dict of matrices by block, got"),
        ({"biases": None}, "the biases of a lens must be a dict of vectors by block; leave it out"),
        ({"model": 7}, "the model of a lens must be a text, or None, got 7"),
        ({"n_layers": "2"}, "the n_layers of a lens must be an integer, or None, got '2'"),
        ({"n_layers": True}, "the n_layers of a lens must be an integer"),
        ({"raw": 1}, "the raw of a lens must be True or False"),
        ({"facts": None}, "the facts of a lens must be a dict"),
    ],
)
def test_an_attribute_of_another_type_is_named(changes, why):
    with pytest.raises((InputError, TypeCheckError)) as raised:
        Lens(**{"name": "x", "maps": {0: torch.eye(4)}, **changes})
    # In the run that checks types, jaxtyping is the first to refuse it.
    if not isinstance(raised.value, TypeCheckError):
        assert re.search(why, str(raised.value))


def test_a_path_from_home_is_found_and_one_of_an_unknown_user_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    vt.lenses.save(Lens("x", {0: torch.eye(4)}), tmp_path / "a.safetensors")
    assert vt.lenses.load("~/a.safetensors").name == "x"
    with pytest.raises(FileError, match="~nobody-of-that-name/a.pt cannot be read"):
        vt.lenses.load("~nobody-of-that-name/a.pt")


class Planted:
    """Unpickled without care, it would call a function."""

    def __reduce__(self):
        return print, ("run by a pickle",)


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path, capsys):
    payload = artifact(matrices(16, 2), metadata={"model_name": Planted()})
    for path in (tmp_path / "lens.pt", tmp_path / "raw.pt"):
        torch.save(payload, path) if path.name == "lens.pt" else path.write_bytes(
            pickle.dumps(payload)
        )
        with pytest.raises(FileError, match="holds more than tensors and plain values"):
            vt.lenses.load(path)
    assert "run by a pickle" not in capsys.readouterr().out


def test_a_truncated_file_is_refused_at_every_length(tmp_path):
    whole = written(tmp_path / "whole.pt", artifact(matrices(16, 1))).read_bytes()
    own = vt.lenses.save(affine(16, 1), tmp_path / "own.safetensors").read_bytes()
    for suffix, content in ((".pt", whole), (".safetensors", own)):
        for size in {0, 1, 8, 100, len(content) // 2, len(content) - 1}:
            cut = tmp_path / f"cut{suffix}"
            cut.write_bytes(content[:size])
            with pytest.raises(FileError):
                vt.lenses.load(cut)


NAN = torch.full((16, 16), float("nan"))
CRAFTED = {
    "no key of a lens": ({"weights": {}}, "no matrices by layer"),
    "a list": ([torch.eye(16)], "holds a list"),
    "no dict of matrices": (artifact(matrices(16, 1), J=[torch.eye(16)]), "by layer, but list"),
    "no layers": (artifact(matrices(16, 1), J={}), "by layer, but dict"),
    "a layer that is no number": (artifact(matrices(16, 1), J={"0": torch.eye(16)}), "the key '0'"),
    "a layer below 0": (artifact(matrices(16, 1), J={-1: torch.eye(16)}), "from 0 on"),
    "integers": (artifact(matrices(16, 1), J={0: torch.eye(16).int()}), "torch.int32"),
    "no tensor": (artifact(matrices(16, 1), J={0: 1.0}), "block 0 is float"),
    "another width": (artifact(matrices(16, 1), d_model=17), "d_model is 17"),
    "not square": (artifact(matrices(16, 1), J={0: torch.ones(16, 8)}), r"\[16, 8\]"),
    "two widths": (
        artifact(matrices(16, 1), J={0: torch.eye(16), 1: torch.eye(8)}), r"block 1 .* \[8, 8\]",
    ),
    "a vector": (artifact(matrices(16, 1), J={0: torch.ones(16)}), "dimensions"),
    "sparse": (artifact(matrices(16, 1), J={0: torch.eye(16).to_sparse()}), "dense"),
    "NaN": (artifact(matrices(16, 1), J={0: NAN}), "NaN or infinity"),
    "other layers": (artifact(matrices(16, 1), source_layers=[0, 1]), r"layers are \[0, 1\]"),
    "a count that is none": (artifact(matrices(16, 1), n_prompts="many"), "number of prompts"),
    "metadata that is no dict": (artifact(matrices(16, 1), metadata=[1]), "'metadata' is no dict"),
    "a checkpoint of no prompts": (
        {"jacobian_sum": matrices(16, 1), "n_done": 0}, "0 prompts done",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_artifact_is_refused_with_the_reason(tmp_path, case):
    payload, said = CRAFTED[case]
    with pytest.raises(FileError, match=said):
        vt.lenses.load(written(tmp_path / "lens.pt", payload))


def test_a_crafted_tuned_lens_is_refused_with_the_reason(tmp_path):
    folder = tmp_path / "tuned"
    for config, said in (
        ({"lens_type": "mlp"}, "linear_tuned_lens"),
        ({"d_model": 8}, "d_model is 8"),
        ({"num_hidden_layers": 3}, "2 translators, and num_hidden_layers is 3"),
        ({"num_hidden_layers": 1}, "no parameter of a translator"),
        ({"num_hidden_layers": True}, "both sizes"),
        ({"num_hidden_layers": 10**12}, "2 translators, and num_hidden_layers is 1000000000000"),
        ({"lens_type": "x" * 10_000}, "lens_type 'xxx"),
    ):
        tuned_folder(folder, **config)
        with pytest.raises(FileError, match=said) as caught:
            vt.lenses.load(folder)
        assert len(str(caught.value)) < 600
    (folder / "config.json").write_text("{")
    with pytest.raises(FileError, match="is no JSON"):
        vt.lenses.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileError, match="config.json cannot be read"):
        vt.lenses.load(folder)
    tuned_folder(tmp_path / "bare")
    (tmp_path / "bare" / "params.pt").unlink()
    with pytest.raises(FileError, match="none of params.pt"):
        vt.lenses.load(tmp_path / "bare")


def test_what_is_no_lens_is_refused(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        vt.lenses.load(tmp_path / "absent.pdf")
    with pytest.raises(FileError, match="cannot be read"):
        vt.lenses.load(tmp_path / "absent.pt")
    tuned_folder(tmp_path / "tuned")
    with pytest.raises(FileError, match=r"of a tuned lens, which is read from its folder.*tuned$"):
        vt.lenses.load(tmp_path / "tuned" / "params.pt")
    save_file({"map.0": torch.eye(4)}, str(tmp_path / "plain.safetensors"))
    with pytest.raises(FileError, match="says format None"):
        vt.lenses.load(tmp_path / "plain.safetensors")
    about = {"format": "visit_tl lens 1", "lens": '{"name": 3}'}
    save_file({"map.0": torch.eye(4)}, str(tmp_path / "odd.safetensors"), metadata=about)
    with pytest.raises(FileError, match="says name: 3"):
        vt.lenses.load(tmp_path / "odd.safetensors")
    save_file({"x": torch.eye(4)}, str(tmp_path / "keys.safetensors"), metadata=about)
    with pytest.raises(FileError, match="tensor 'x'"):
        vt.lenses.load(tmp_path / "keys.safetensors")
    with pytest.raises(InputError, match="no maps"):
        Lens("x", {})
    with pytest.raises(InputError, match="bias but no map of block 1"):
        Lens("x", {0: torch.eye(4)}, {1: torch.ones(4)})
    with pytest.raises(InputError, match=r"bias of block 0 .* \[5\]"):
        Lens("x", {0: torch.eye(4)}, {0: torch.ones(5)})


def test_what_a_file_says_is_never_shown_at_length(tmp_path):
    path, long = tmp_path / "lens.safetensors", "x" * 50_000
    about = {"format": "visit_tl lens 1", "lens": '{"name": "a"}'}
    for tensors, metadata in (
        ({"map.0": torch.eye(4)}, {"format": long}),
        ({long: torch.eye(4)}, about),
        ({"map.0": torch.eye(4)}, {**about, "lens": f'{{"name": ["{long}"]}}'}),
    ):
        save_file(tensors, str(path), metadata=metadata)
        with pytest.raises(FileError) as caught:
            vt.lenses.load(path)
        assert len(str(caught.value)) < 600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    for name in ("lens.pt", "lens.safetensors", "config.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(FileError, match="is neither a file nor a folder"):
            vt.lenses.load(tmp_path if name == "config.json" else tmp_path / name)


def test_an_old_torch_reads_no_pickle(tmp_path, monkeypatch):
    path = written(tmp_path / "lens.pt", artifact(matrices(16, 1)))
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(FileError, match=r"cannot read one safely \(2.6 can\)"):
        vt.lenses.load(path)
