"""Data: samples, labels, groups and content fingerprints; readers, checks and deterministic splits."""
