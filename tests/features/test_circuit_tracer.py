"""Transcoders of circuit-tracer: what it computed with each is computed here too."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import visit_tl as vt
from tests.features import DATA

FOLDERS = sorted(path for path in (DATA / "circuit_tracer").iterdir() if path.is_dir())


def close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_features_and_the_whole_are_those_of_circuit_tracer(folder):
    module, said = vt.features.open(folder, layer=1), load_file(folder / "example.safetensors")
    assert module.architecture.removesuffix("transcoder").replace("_", "") == (
        folder.name.replace("relu_skip", "skip" if folder.name[0] == "r" else "relu_skip")
        .replace("_", "") if folder.name != "relu" else ""
    )  # fmt: skip
    close(module.encode(said["input"]), said["features"])
    close(module(said["input"]), said["forward"])
    run = module.apply(said["input"])
    parts = run.features @ module.W_dec + run.offset
    close(parts if run.skip is None else parts + run.skip, said["forward"])


def test_the_hooks_are_those_of_the_layer():
    folder = DATA / "circuit_tracer" / "topk"
    for module in (
        vt.features.open(folder, layer=1),
        vt.features.open(folder / "layer_1.safetensors"),
        vt.features.open(folder / "config.yaml", layer=1),
    ):
        assert (module.hook, module.hook_out) == (
            "blocks.1.hook_resid_mid",
            "blocks.1.hook_mlp_out",
        )
        assert (module.layer, module.model_name, module.name) == (1, "tiny", "layer_1")
        assert module.metadata["k"] == 6
    renamed = vt.features.open(folder, layer=0, hook="blocks.0.mlp.hook_in", model_name="x")
    assert (renamed.hook, renamed.model_name) == ("blocks.0.mlp.hook_in", "x")


def test_negative_features_are_kept_by_topk_as_circuit_tracer_keeps_them():
    module = vt.features.open(DATA / "circuit_tracer" / "topk", layer=0)
    low = module.encode(torch.zeros(16))
    assert (low != 0).sum() == 6
    weights = load_file(module.path)
    assert torch.equal(low, module.encoder.activation(weights["b_enc"][None])[0])


@pytest.fixture
def folder(tmp_path):
    """A copy of one set, to be broken."""
    for file in (DATA / "circuit_tracer" / "topk").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (
            "model_kind: cross_layer_transcoder",
            "cross-layer transcoder, whose features write to many",
        ),
        ("model_kind: other", "model_kind='other', expected 'transcoder_set'"),
        ("[1, 2]", "is no mapping, but a list"),
        ("a: [", "is no YAML"),
        ("!!python/object/apply:os.system ['touch owned']", "is no YAML"),
        ("[" * 1200, "is no YAML"),
        ("activation: topk\nk: 65\nfeature_input_hook: a", r"k=65, expected 1\.\.64"),
        ("activation: topk\nk: six", "k='six', expected an integer"),
        ("activation: topk", "neither it nor the weights say k"),
        ("activation: gelu", "activation='gelu'; known are relu, topk, jumprelu"),
        ("activation: jump_relu", "has no activation_function.threshold"),
        ("activation: relu", "feature_input_hook=None, expected the name of a hook"),
        ("activation: relu\nfeature_input_hook: ../x", "feature_input_hook='../x'"),
    ],
)
def test_a_configuration_that_is_not_known_is_refused(folder, config, why):
    (folder / "config.yaml").write_text(config)
    with pytest.raises(vt.InputError, match=why):
        vt.features.open(folder, layer=1)
    assert not (folder / "owned").exists()


def test_yaml_that_stands_for_more_than_it_says_is_refused(folder):
    sound = (folder / "config.yaml").read_text()
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    bomb = "\n".join(["a0: &a0 [x]", *lists, "activation: *a9"])
    for text, why in (
        (bomb, r"it refers to other parts of itself"),
        ("model_kind: &x [*x]", "it refers to other parts of itself"),
        (f"{sound}\n{sound}", "a key appears twice in one mapping"),
        ("activation: [" + "x, " * 5000 + "x]\nmodel_kind: transcoder_set", "activation="),
    ):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(vt.InputError, match=why) as caught:
            vt.features.open(folder, layer=0)
        assert len(str(caught.value)) < 600


def test_a_folder_is_of_many_layers(folder):
    with pytest.raises(vt.InputError, match="holds 2 transcoders, one a layer; say which"):
        vt.features.open(folder)
    with pytest.raises(vt.InputError, match=r"there is no file .*layer_7\.safetensors"):
        vt.features.open(folder, layer=7)
    with pytest.raises(vt.InputError, match="is of layer 1, and layer=0 was asked for"):
        vt.features.open(folder / "layer_1.safetensors", layer=0)
    (folder / "layer_1.safetensors").rename(folder / "mine.safetensors")
    with pytest.raises(vt.InputError, match="does not say its layer"):
        vt.features.open(folder / "mine.safetensors")
    assert vt.features.open(folder / "mine.safetensors", layer=1).layer == 1


def test_tensors_of_another_kind_are_refused(folder):
    path = folder / "layer_1.safetensors"
    weights = load_file(path)
    for change, why in (
        (
            {"W_enc": weights["W_enc"].T.contiguous()},
            r"W_dec .* shape \[64, 16\], expected \[16, 16\]",
        ),
        ({"extra": torch.ones(3)}, "holds extra, of which its architecture has no use"),
        ({"k": torch.tensor(5)}, "says k=6, and .* k=5"),
        ({"k": torch.tensor(6.0)}, "k of .* is no whole number"),
        ({"w_enc": torch.ones(3)}, "names of Gemma Scope 2"),
    ):
        save_file(weights | change, path)
        with pytest.raises(vt.InputError, match=why):
            vt.features.open(folder, layer=1)
