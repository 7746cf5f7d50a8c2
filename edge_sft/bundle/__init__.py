"""Bundle: one immutable signed file that carries a model from the maker to the machine."""
