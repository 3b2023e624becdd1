"""The measurements of VISIT (Katz and Belinkov, 2023), a subject a file.

Importing this package registers them.
"""

from visit_tl.sweeps.paper import heads as heads
