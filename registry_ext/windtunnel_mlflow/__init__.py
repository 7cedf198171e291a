"""The governed registry: an MLflow registry store and server app in which policy is the law for every client."""
