"""Tests of the lab floor."""
