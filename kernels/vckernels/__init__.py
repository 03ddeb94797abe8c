"""The ground floor of vclab: mechanisms of memory management as Numba kernels.

Arrays and NamedTuples of arrays go in, arrays come out; nothing here reads a file or raises for bad input.
One module is one mechanism. State is mutated in place where a docstring says so; a call either does all of
its work or returns a status of :class:`vckernels.causes.Status` and changes nothing.
"""
