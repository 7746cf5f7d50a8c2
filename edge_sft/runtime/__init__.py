"""Runtime: sources, pipelines, journal, MQTT, agent, ledger. The part that must not stop."""
