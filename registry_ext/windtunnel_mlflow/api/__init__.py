"""``/api/windtunnel/v1``: the endpoints, one thin function each."""
