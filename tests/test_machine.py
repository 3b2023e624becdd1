"""Processors by name, from what systems say of them."""

import pytest

from visit_tl.lens import machine

INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse avx avx2 avx512f amx_bf16 avx512_bf16 amx_tile

processor\t: 1
model name\t: another
"""
ARM = """processor\t: 0
Features\t: fp asimd evtstrm sve bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


@pytest.fixture
def told(tmp_path, monkeypatch):
    def tell(text, system="Linux"):
        path = tmp_path / "cpuinfo"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(machine, "_CPUINFO", path)
        monkeypatch.setattr(machine.platform, "system", lambda: system)
        monkeypatch.setattr(machine.platform, "processor", lambda: "")
        monkeypatch.setattr(machine.platform, "machine", lambda: "some64")
        monkeypatch.setattr(machine, "_cores", lambda: 2)
        return machine.processor.__wrapped__()

    return tell


def test_a_processor_of_linux_is_named_with_its_family_and_what_multiplies(told):
    assert str(told(INTEL)) == (
        "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (family 6, model 143), "
        "avx2 avx512f avx512_bf16 amx_tile amx_bf16, 2 cores"
    )


def test_an_arm_processor_is_known_by_its_part(told):
    assert str(told(ARM)) == "some64 (implementer 0x41, part 0xd40), asimd sve bf16, 2 cores"


@pytest.mark.parametrize("system", ["Windows", "Darwin"])
def test_where_nothing_is_told_the_architecture_is_the_name(system, told, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(machine.subprocess, "run", missing)
    assert str(told(None, system)) == "some64, 2 cores"


def test_this_machine_has_a_name_and_a_core():
    assert machine.processor().name and machine.processor().cores >= 1
