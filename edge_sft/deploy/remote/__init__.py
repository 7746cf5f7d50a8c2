"""Reaching a device over OpenSSH: first contact, software, bundle, proof; every step can be repeated."""
