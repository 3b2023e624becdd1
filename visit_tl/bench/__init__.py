"""Timings on this machine, compared with the matrix product that is their lower bound.

Nothing here is imported by the rest of the package.
"""
