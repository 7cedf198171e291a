"""Windtunnel's pages inside Airflow's web UI."""
