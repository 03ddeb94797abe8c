"""How things look: plots, the picture of memory, the report.

Everything here takes plain arrays and :mod:`vclab.results`; which numbers go into a figure is a study's business.
"""
