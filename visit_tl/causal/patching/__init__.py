"""`effects`: replace the activation of a node, run the rest of the model, measure the metric.

Single nodes are patched here. Edges are cut in `paths/`; whole circuits are kept in `circuit/`.
"""
