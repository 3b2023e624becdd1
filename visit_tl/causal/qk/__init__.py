"""Attention scores taken apart: what was written at the query, times what was written at the key.

Computed from one forward pass without any patching (docs/maths.md, "Attention scores").
"""
