"""What runs at a site."""

from edge_sft.federated.app import make_client_app

app = make_client_app()
