"""One stored forward pass, of which parts can be run again with changes.

This package decides which blocks and rows are run, and finds by trying how blocks are called.
`causal/` decides what to change.
"""
