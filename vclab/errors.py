"""Every error that vclab raises on purpose.

Messages follow one form: WHAT is wrong, WHERE it was met, and what would be right. The command line
prints them after ``vclab: error:`` on one line.
"""

from __future__ import annotations


class VclabError(Exception):
    """Base of all deliberate errors; the command line turns it into one line and exit status 2."""


class ConfigurationError(VclabError):
    """A setting, preset name, size or option that does not exist or cannot work."""


class OutOfMemory(VclabError):
    """A request that the model's policy could not serve."""


class InvalidFree(VclabError):
    """A page or block that is not allocated, or not as the caller says."""


class ConservationError(VclabError):
    """A frame that is in no state or in two, or a count that disagrees with the frames: the model is at fault."""


class FragmentationNotReached(VclabError):
    """Ageing ended before index and free share were met.

    Attributes
    ----------
    best : float
        The unusable free index that came nearest, 0 to 1.
    free : float
        The free share of managed frames at that moment, 0 to 1.
    """

    def __init__(self, message: str, best: float, free: float) -> None:
        super().__init__(message)
        self.best = best
        self.free = free

    def __reduce__(self) -> tuple[type, tuple[str, float, float]]:
        """Let it come from a worker process whole: exceptions are copied by their arguments."""
        return type(self), (str(self), self.best, self.free)


class RecordingError(VclabError):
    """A recording that is missing, damaged, hostile or of another layout."""


class HostError(VclabError):
    """This machine cannot be looked at: a right, a file of the kernel or free memory is missing."""


class OutputError(VclabError):
    """A place for results that cannot be written, or results that cannot be read back."""
