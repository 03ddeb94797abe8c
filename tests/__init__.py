"""Tests of vclab and its kernels."""
