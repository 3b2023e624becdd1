"""Roles of heads, measured on generated token sequences: `roles`, and its result.

Probes are made here (`probes.py`), heads are measured by where they look (`attention.py`) and by
what their values say (`values.py`), and each score is held against the same measure of probes whose
structure is broken (`measure.py`).
"""
