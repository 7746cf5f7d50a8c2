"""Checks: small pure functions over what was read; what does not concern a machine returns None."""
