"""Long comparisons; CI runs a seeded share of each."""
