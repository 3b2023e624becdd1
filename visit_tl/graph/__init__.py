"""Graphs as data: ids, records, the container, and all that can be computed without a model.

Nothing here imports torch or plotly; of visit_tl, only the lowest layer is imported (errors,
arguments, escaping). `io/` converts graphs to JSON types, tables and networks, and back.
"""
