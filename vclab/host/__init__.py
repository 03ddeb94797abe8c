"""The live machine: what its kernel shows of the page allocator, and how to watch it at work.

Nothing here knows the model or the file formats. Everything that is made in the running kernel (a tracing instance, a
mount) is taken back on every way out.
"""
