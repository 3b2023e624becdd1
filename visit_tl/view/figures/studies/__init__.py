"""Figures of the studies of a sweep; `choose.py` picks one by the columns of the table."""
