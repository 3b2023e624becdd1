"""Plotly figures, one kind per file. Each takes data and returns a figure; none shows or saves it.

What pages, figures and text share (colours, captions, layout) is one folder up.
"""
