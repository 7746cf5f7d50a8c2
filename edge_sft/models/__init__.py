"""Models: backbones by registry name, their weights by hash, and the classifier built on them."""
