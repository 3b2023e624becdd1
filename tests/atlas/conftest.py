"""A cache of its own for each test, and an atlas that small models are worth."""

import pytest

from visit_tl.atlas import row_cache as rooms


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of the sheets, empty; what is in memory is forgotten."""
    monkeypatch.setenv("VISIT_TL_CACHE", str(tmp_path))
    monkeypatch.setenv("VISIT_TL_ATLAS", "disk")
    monkeypatch.setattr(rooms, "_WORTH", 0)
    rooms.forget()
    yield tmp_path / "atlas"
    rooms.forget()


@pytest.fixture
def forget():
    """Lose what is in memory, as a new process would."""
    return rooms.forget


@pytest.fixture
def reads(monkeypatch):
    """How many rows the lens was given, call by call."""
    from visit_tl.lens import readout as lens

    counts, real = [], lens.read

    def counted(view, vectors, *args, **options):
        counts.append(len(vectors))
        return real(view, vectors, *args, **options)

    monkeypatch.setattr(lens, "read", counted)
    return counts
