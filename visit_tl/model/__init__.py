"""The only room, with trace.py, that knows TransformerLens."""
