"""The measurements of VISIT (Katz and Belinkov, 2023), a subject a file.

Importing this package registers them.
"""

from visit_tl.sweeps.paper import heads as heads
from visit_tl.sweeps.paper import memories as memories
from visit_tl.sweeps.paper import neurons as neurons
from visit_tl.sweeps.paper import norm_filter as norm_filter
from visit_tl.sweeps.paper import queries_keys as queries_keys
from visit_tl.sweeps.paper import residual as residual
