"""Slots: where bundles live on a device, two a pipeline, and the Predictor made from the one in use."""
