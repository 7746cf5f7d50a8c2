"""What runs at the coordinator."""

from edge_sft.federated.app import make_server_app

app = make_server_app()
