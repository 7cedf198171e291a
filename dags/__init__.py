"""DAG files that ship with Windtunnel; each a few lines."""
