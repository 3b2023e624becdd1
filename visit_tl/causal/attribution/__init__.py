"""Direct logit attribution: what each part of a run adds to a logit.

Computed from one forward pass without any patching. Effects of patches are in `patching/`.
"""
