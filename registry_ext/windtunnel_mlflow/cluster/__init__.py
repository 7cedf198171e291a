"""The registry's server in a pod: secrets from mounted files, the schema behind one lock, TLS, a real check."""
