"""What runs on a device before edge-sft is there: sent over the link as source, needs Python 3.10 and nothing else.

Modules of this package import from the standard library and, by full name, from each other; nothing else is there.
"""
