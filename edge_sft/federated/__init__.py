"""Federated fine-tuning over plants: the same training at each site, weights averaged by Flower, data staying home."""
