"""Tests of the kernels, one file for each."""
