"""From one forward pass to records: pruning, blocks, other positions, conservation laws, readouts.

The results are the records of `graph/`. `FlowGraph` and the views are not imported here.
"""
