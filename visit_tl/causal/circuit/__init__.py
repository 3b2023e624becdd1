"""The model reduced to a circuit, and how faithful, complete and minimal that circuit is.

The edges of a graph are cut here too: the model is reduced to all but one bundle of edges. Circuits
can be given in any form; the results are numbers. Known circuits as data are in `circuits/`.
"""
