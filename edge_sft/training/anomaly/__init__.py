"""Learning what good parts look like: anomaly detection on pictures."""
