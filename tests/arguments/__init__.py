"""Tests of visit_tl.arguments: what public calls take."""
