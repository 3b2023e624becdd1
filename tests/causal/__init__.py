"""Tests of visit_tl.causal."""
