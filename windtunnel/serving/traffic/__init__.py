"""What routers counted: by Envoy's access log and the meter on this machine, by Prometheus elsewhere."""
