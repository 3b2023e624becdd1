"""Causes: what patching a node, an edge or a circuit does to the model's output."""
