"""Channels between heads, from weights: composition scores, and the directions of a pair.

`weights.py` makes the low-rank factors of all heads, with norms folded in; `composition.py` and
`directions.py` multiply them; `use_in_prompt.py` says what goes through a channel in one run.
"""
