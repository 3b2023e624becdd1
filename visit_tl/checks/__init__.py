"""What a model is, and whether it can be taken apart exactly: the call, its report, its trials."""
