"""Embedded models (downloaded, verified, converted and cached), and GGUF files.

Nothing here reads the weights or activations of an opened model.
"""
