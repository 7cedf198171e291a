"""The governed registry from the outside: how it is started, and a client for its endpoints. No MLflow import."""
