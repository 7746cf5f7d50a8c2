"""Engines: a variant and a device profile become something that infers. One contract, several back ends."""
