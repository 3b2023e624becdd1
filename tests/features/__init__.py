"""SAEs and transcoders: `data/features` holds those that SAELens made, with its own answers."""

from pathlib import Path

from safetensors.torch import load_file

DATA = Path(__file__).parents[1] / "data" / "features"
FOLDERS = sorted(path.name for path in DATA.iterdir() if (path / "cfg.json").is_file())
EVERY_MODULE = [
    str(path.parent.relative_to(DATA))
    for path in sorted(DATA.rglob("example.safetensors"))
    if path.parent.name != "transcoder_narrow"
]
"""Those of SAELens and of circuit-tracer that fit one small model."""


def answers(name):
    """`input`, `features`, `output` and `forward`, as SAELens computed them."""
    return load_file(DATA / name / "example.safetensors")
