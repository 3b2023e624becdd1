"""A model and one forward pass of it: the only folder that uses TransformerLens and transformers.

Its results are plain tensors under standard hook names. Nothing here depends on the logit lens, on
graphs or on pictures.
"""
