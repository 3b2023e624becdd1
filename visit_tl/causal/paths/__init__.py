"""Path patching: change what one part writes, but for one reader only.

The edges here join parts of the model. An edge of a graph is a bundle of them: see `circuit/`.
"""
