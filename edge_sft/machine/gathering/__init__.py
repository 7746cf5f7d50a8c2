"""What each check is given: read here, judged in `edge_sft.machine.checks`."""
