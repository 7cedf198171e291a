"""A cluster on this machine to try things on, by kind or minikube.

plan     which commands, in which order; pure
secrets  what the charts need and nobody else shall know
doing    the commands, one after the other; what a failure leaves is taken away again
"""

from windtunnel.stack.laptop.doing import Machine, down, status, up
from windtunnel.stack.laptop.plan import ENGINES, Laptop

__all__ = ["ENGINES", "Laptop", "Machine", "down", "status", "up"]
