"""The Flower App: a thin door to `edge_sft.federated`. Travels inside the wheel as data, is imported by nothing."""
