"""Where traffic flows: the backend contract, the local backend (MLServer and Envoy), the prediction log, the guard."""
