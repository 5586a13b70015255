"""Systems and baselines: one module or folder each, found by name."""
