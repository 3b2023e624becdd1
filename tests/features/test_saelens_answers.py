"""What SAELens computed with each folder, when it made it, is computed here too."""

import json

import pytest
import torch

import visit_tl as vt
from tests.features import DATA, FOLDERS, answers

# Measured: 2.4e-7 of the greatest value at most (topk_by_norm, whose norms are folded); else
# mostly 0.
TOLERANCE = 1e-6


def close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", FOLDERS)
def test_features_outputs_and_the_whole_are_those_of_saelens(name):
    module, said = vt.features.open(DATA / name), answers(name)
    x = said["input"]
    features = module.encode(x)
    close(features, said["features"])
    assert ((features != 0) == (said["features"] != 0)).all()
    close(module.decode(said["features"], x).reshape(said["output"].shape), said["output"])
    close(module(x), said["forward"])


@pytest.mark.parametrize("name", FOLDERS)
def test_the_terms_of_a_run_sum_to_its_reconstruction(name):
    module, x = vt.features.open(DATA / name), answers(name)["input"]
    run = module.apply(x)
    parts = run.features @ module.W_dec * run.scale + run.offset
    parts = parts if run.skip is None else parts + run.skip
    close(parts, run.reconstruction)
    close(run.reconstruction, module(x).reshape(run.reconstruction.shape))
    assert (run.skip is None) == (module.skip(x) is None) == ("skip" not in name)


@pytest.mark.parametrize("name", FOLDERS)
def test_one_unit_of_a_feature_adds_its_row_of_the_decoder(name):
    module = vt.features.open(DATA / name, dtype=torch.float64)
    x = answers(name)["input"][:1]
    features = module.encode(x)
    more = features.clone()
    more[..., 7] += 1
    scale = module.apply(x).scale
    added = module.decode(more, x) - module.decode(features, x)
    assert torch.allclose(added, module.W_dec[7] * scale, atol=1e-12)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_module_says_what_it_was_saved_as(name):
    module = vt.features.open(DATA / name)
    saved = json.loads((DATA / name / "cfg.json").read_text())
    said = saved.get("metadata", saved)
    assert module.hook == (said.get("hook_name") or saved["hook_point"])
    assert (module.layer, module.d_in, module.n_features) == (1, 16, 64)
    assert module.d_out == module.W_dec.shape[1] == len(module.b_dec) == saved.get("d_out", 16)
    assert module.hook_out == ("blocks.1.hook_mlp_out" if "d_out" in saved else module.hook)
    assert module.flatten_heads == module.hook.endswith("hook_z")
    assert module.model_name == said["model_name"]
    assert module.name == name and module.path == DATA / name / "sae_weights.safetensors"
    assert module.W_dec.dtype == torch.float32
    assert str(module).startswith(f"{name}: {module.architecture}, 64 features at {module.hook}")


def test_the_keys_of_earlier_releases_are_read():
    old = vt.features.open(DATA / "old_topk")
    assert (old.architecture, old.neuronpedia_id) == ("topk", "tiny/1-att-x")
    assert (old.encode(answers("old_topk")["input"]) != 0).sum(1).max() == 6
    assert vt.features.open(DATA / "old_standard_z").flatten_heads


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka"])
def test_what_was_trained_on_batches_is_opened_as_what_it_was_saved_as(name):
    module = vt.features.open(DATA / name)
    assert module.architecture == "jumprelu"
    assert name in module.metadata["training_architecture"]


def test_leading_axes_are_kept_and_one_vector_is_enough():
    module = vt.features.open(DATA / "topk")
    x = torch.randn(2, 3, 16)
    assert module.encode(x).shape == (2, 3, 64)
    assert module(x).shape == (2, 3, 16)
    assert torch.allclose(module.encode(x[1, 2]), module.encode(x)[1, 2])
    assert module.apply(x[0, 0]).scale.shape == (1,)
    assert module.encode(x[:0]).shape == (0, 3, 64)


def test_heads_are_one_axis_or_two():
    module = vt.features.open(DATA / "standard_z")
    x = torch.randn(2, 3, 4, 4)
    flat = x.reshape(2, 3, 16)
    assert torch.equal(module.encode(x), module.encode(flat))
    assert torch.equal(module(x), module(flat).reshape(x.shape))
    assert module.decode(module.encode(x)).shape == (2, 3, 16)


def test_a_module_computes_in_double_precision_where_asked():
    module = vt.features.open(DATA / "gated", dtype=torch.float64)
    said = answers("gated")
    assert module.dtype == module.encode(said["input"]).dtype == torch.float64
    close(module(said["input"]).float(), said["forward"])


def test_what_features_write_needs_the_input_where_it_is_normalised():
    module = vt.features.open(DATA / "topk_layer_norm")
    features = module.encode(torch.randn(2, 16))
    with pytest.raises(vt.InputError, match=r"normalises its input .* decode\(features, x\)"):
        module.decode(features)
