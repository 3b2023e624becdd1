"""Tests of visit_tl.studies."""
