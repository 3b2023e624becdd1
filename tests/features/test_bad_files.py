"""Folders that are broken, crafted or of another kind are refused with the reason."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

import visit_tl as vt
from tests.features import DATA


@pytest.fixture
def folder(tmp_path):
    """A copy of a sound folder, to be broken."""
    place = tmp_path / "sae"
    place.mkdir()
    for name in ("cfg.json", "sae_weights.safetensors"):
        (place / name).write_bytes((DATA / "topk" / name).read_bytes())
    return place


def refused(source, why, **options):
    with pytest.raises(vt.InputError, match=why) as caught:
        vt.features.open(source, **options)
    assert len(str(caught.value)) < 600


def configured(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    config = {k: v for k, v in (config | changes).items() if v is not ...}
    (folder / "cfg.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"architecture": "temporal"}, "its features at a position depend on those before it"),
        ({"architecture": "batchtopk"}, "save it with TrainingSAE.save_inference_model"),
        ({"architecture": "diffusion"}, "'diffusion'; known are standard, gated, jumprelu, topk"),
        ({"architecture": 3}, "architecture=3, expected a text"),
        ({"architecture": "gated"}, "has no r_mag|has no b_gate"),
        ({"architecture": "jumprelu"}, "has no threshold; it holds"),
        ({"activation_fn": "tanh-relu"}, "activation 'tanh-relu'; a topk is known with"),
        ({"normalize_activations": "covariance_whitening"}, "folds a whitening into the weights"),
        ({"normalize_activations": "rms"}, "normalize_activations='rms'; known are none"),
        ({"reshape_activations": "heads"}, "reshape_activations='heads', known are none and"),
        ({"d_in": "16"}, "d_in='16', expected an integer of at least 1"),
        ({"d_in": True}, "d_in=True, expected an integer"),
        ({"d_in": -1}, "d_in=-1, expected"),
        ({"d_in": ...}, "d_in=None, expected"),
        ({"d_in": 17}, r"b_dec of .* has the shape \[16\], expected \[17\]"),
        ({"d_sae": 10**9}, r"W_dec of .* has the shape \[64, 16\], expected"),
        ({"k": 65}, "k=65, which is more than its 64 features"),
        ({"k": 6.0}, "k=6.0, expected an integer"),
        ({"k": ...}, "k=None, expected"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input='yes', expected true or false"),
        ({"architecture": "matching_pursuit", "residual_threshold": -1}, "a finite number of at"),
        ({"architecture": "matching_pursuit", "max_iterations": 1.5}, "max_iterations=1.5, expe"),
        ({"metadata": []}, "has metadata that is a list"),
        ({"metadata": {}}, "names no hook; say which it reads"),
        ({"metadata": {"hook_name": 3}}, "hook_name=3, expected a text"),
        ({"metadata": {"hook_name": "ln_final.hook_scale"}}, "no hook of a block"),
        ({"metadata": {"hook_name": "blocks.1.../../x"}}, "no hook of a block"),
        ({"d_out": 16, "architecture": "transcoder"}, "does not name the hook that it"),
        ({"architecture": "x" * 5000}, "architecture='xxx.*, expected a text of at most 1000"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_known_is_refused(folder, changes, why):
    configured(folder, **changes)
    refused(folder, why)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[1]", "is no JSON object, but a list"),
        ('{"d_in": NaN}', "NaN is not a JSON number"),
        ('{"d_in": 1, "d_in": 2}', "the key 'd_in' appears twice"),
        ("[" * 100_000, "is no JSON"),
        ("\udcff", "is no JSON"),
    ],
)
def test_a_configuration_that_is_no_json_is_refused(folder, text, why):
    (folder / "cfg.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(folder, why)


def changed(folder, **tensors):
    path = folder / "sae_weights.safetensors"
    weights = load_file(path) | tensors
    save_file({k: v for k, v in weights.items() if v is not None}, path)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"W_enc": torch.ones(64, 16)}, r"W_enc .* shape \[64, 16\], expected \[16, 64\]"),
        ({"b_enc": torch.ones(1, 64)}, r"b_enc .* shape \[1, 64\], expected \[64\]"),
        ({"b_enc": None}, "has no b_enc; it holds"),
        ({"W_dec": torch.full((64, 16), torch.nan)}, "W_dec .* holds numbers that are not finite"),
        ({"b_dec": torch.full((16,), torch.inf)}, "b_dec .* holds numbers that are not finite"),
        ({"b_dec": torch.ones(16, dtype=torch.int32)}, "b_dec .* is torch.int32; weights are"),
        ({"W_mystery": torch.ones(2)}, "holds W_mystery, of which its architecture has no use"),
        ({"scaling_factor": torch.full((64,), 2.0)}, "holds a scaling_factor, and its config"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(folder, tensors, why):
    changed(folder, **tensors)
    refused(folder, why)


def test_a_scale_of_finetuning_that_is_applied_belongs_to_the_decoder(folder):
    before = vt.features.open(folder)
    scale = torch.rand(64)
    changed(folder, scaling_factor=scale)
    configured(folder, finetuning_scaling_factor=True)
    after = vt.features.open(folder)
    x = torch.randn(3, 16)
    assert torch.equal(after.encode(x), before.encode(x))
    assert torch.allclose(after(x), before.decode(before.encode(x) * scale), atol=1e-6)


def test_thresholds_may_be_kept_as_logarithms(folder):
    threshold = torch.rand(64)
    configured(folder, architecture="jumprelu")
    changed(folder, threshold=threshold)
    plain, x = vt.features.open(folder), torch.randn(9, 16)
    changed(folder, threshold=None, log_threshold=threshold.log())
    assert torch.equal(vt.features.open(folder).encode(x), plain.encode(x))


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 2000, -1])
def test_weights_that_are_cut_off_are_refused(folder, kept):
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, "is no whole safetensors file")


def headed(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**8) + b"{" * 100,
        headed(b"not json"),
        headed({"W_enc": {"dtype": "F32", "shape": [2**40] * 2, "data_offsets": [0, 4]}}, b"1234"),
        headed({"W_enc": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, b"1234"),
        headed({"W_enc": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        b"PK\x03\x04" + b"\0" * 60,
    ],
)  # fmt: skip
def test_weights_that_are_crafted_are_refused(folder, content):
    (folder / "sae_weights.safetensors").write_bytes(content)
    refused(folder, "is no whole safetensors file")


def test_names_of_any_length_and_number_make_no_long_message(folder):
    path = folder / "sae_weights.safetensors"
    sound = load_file(path)
    save_file({**sound, "x" * 50_000: torch.ones(1)}, path)
    refused(folder, r"holds x{57}\.\.\., of which its architecture has no use")
    many = {f"n{i:05}": torch.ones(1) for i in range(3000)}
    save_file({**many, **{k: v for k, v in sound.items() if k != "W_dec"}}, path)
    refused(folder, "has no W_dec; it holds W_enc, b_dec, b_enc, n00000, .* and 2983 more")
    refused("a" * 9000, "there is no file or folder 'a{300}'")


def test_pickles_are_not_opened(tmp_path):
    pickle = tmp_path / "sae.pt"
    torch.save({"W_enc": torch.ones(2)}, pickle)
    refused(pickle, "is a pickle, which can run code")
    refused(tmp_path, r"sae\.pt is a pickle, which can run code.* SAE.save_model\(folder\)")
    # Under another name it is no safetensors file.
    disguised = tmp_path / "sae_weights.safetensors"
    pickle.rename(disguised)
    (tmp_path / "cfg.json").write_bytes((DATA / "topk" / "cfg.json").read_bytes())
    refused(tmp_path, "is no whole safetensors file")


def test_what_is_not_there_is_named(folder, tmp_path):
    refused(tmp_path / "absent", "there is no file or folder")
    refused("gpt2-small-res-jb", "nothing is downloaded: a release of SAELens is given as the SAE")
    refused(tmp_path, "has neither cfg.json, as SAELens writes it, nor config.yaml")
    (folder / "sae_weights.safetensors").unlink()
    refused(folder, r"there is no file .*sae_weights\.safetensors")
    for source in (None, 3, [folder], b"sae", torch.ones(2), "a\0b", "\ud800"):
        refused(source, "there is no file|is opened from a folder, a file or a sae_lens.SAE")


def test_a_path_from_home_is_found_and_one_of_an_unknown_user_is_not(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert vt.features.open(f"~/{folder.name}").path.parent == folder
    refused("~nobody-of-that-name/sae", "there is no file or folder '~nobody-of-that-name/sae'")


def test_weights_too_large_for_float32_want_float64(folder):
    changed(folder, W_dec=torch.full((64, 16), 1e200, dtype=torch.float64))
    refused(folder, "W_dec .* too large for torch.float32; open it with dtype=torch.float64")
    assert vt.features.open(folder, dtype=torch.float64).dtype == torch.float64


def test_a_hook_may_be_given_where_the_file_names_none(folder):
    configured(folder, metadata={"model_name": "tiny"})
    module = vt.features.open(folder, hook="blocks.0.hook_mlp_out", model_name="native")
    assert (module.hook, module.hook_out, module.layer) == ("blocks.0.hook_mlp_out",) * 2 + (0,)
    assert module.model_name == "native"
    refused(folder, "is an SAE, which reconstructs what it reads", hook="blocks.0.hook_mlp_out",
            hook_out="blocks.1.hook_mlp_out")  # fmt: skip
    refused(folder, "is of layer 0, and layer=1 was asked for", hook="blocks.0.hook_mlp_out",
            layer=1)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8, "float32", None])
def test_sums_in_half_precision_are_refused(dtype):
    refused(DATA / "topk", "torch.float32 or torch.float64, got", dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nowhere", -1, None, 1.5, [1]])
def test_a_device_that_is_not_there_is_refused(device):
    refused(DATA / "topk", "is no device to compute on", device=device)


def test_inputs_of_another_width_are_refused():
    module = vt.features.open(DATA / "standard_z")
    with pytest.raises(vt.InputError, match=r"reads \[\.\.\., 16\] or \[\.\.\., head, d_head\]"):
        module.encode(torch.ones(2, 15))
    with pytest.raises(vt.InputError, match=r"decodes \[\.\.\., 64\] real numbers"):
        module.decode(torch.ones(2, 63))
