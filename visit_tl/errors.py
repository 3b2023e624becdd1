"""The errors that visit_tl raises on purpose.

Each message says what failed, what was expected, what came instead and what to do about it. The
command line prints the message alone; `--debug` adds the traceback.
"""

import sys
import warnings


class VisitError(Exception):
    """Anything that visit_tl refuses to do, with the reason and the remedy."""


class ModelError(VisitError):
    """A model that cannot be opened, or cannot be taken apart exactly."""


class InputError(VisitError):
    """A prompt, target, layer, position, head or budget that does not fit the model."""


class ArgumentTypeError(InputError, TypeError):
    """An argument of the wrong type, such as a text where a number is expected."""


class ArgumentValueError(InputError, ValueError):
    """An argument of the right type whose value is refused, such as a count below 1."""


class DecompositionError(VisitError):
    """The parts do not sum to the whole: the numbers of a graph would be wrong."""


class GraphError(VisitError):
    """A graph file, node id or edge that is invalid, or not in the graph."""


class FileError(VisitError):
    """A path that cannot be written, or that holds something that is not ours to overwrite."""


class PerformanceWarning(UserWarning):
    """The result is right, but a slower method was used; says which, why and at what cost."""


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the line of the caller's code from which this package was called."""
    package = __name__.partition(".")[0]
    frame, level, outside = sys._getframe(1), 2, 2
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == package:
            outside = level + 1
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=outside)
