"""Tests of lenses other than the logit lens."""
