"""visit_tl: an X-ray of one forward pass, for TransformerLens."""
