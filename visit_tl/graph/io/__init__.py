"""Graphs as JSON types, tables, networks and the formats of other viewers, and back.

Only data goes in and out: what is written to disk, and where, is decided by `saving.py`.
"""
