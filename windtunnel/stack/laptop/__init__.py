"""A cluster on this machine to try things on, by kind or minikube.

parts    what is asked for, and one command
plan     which commands, in which order; pure
demo     those of the demo; pure
dags     a person's own DAG files, as a layer on Airflow's image
objects  what the demo needs besides the charts, as manifests; pure
secrets  what the charts need and nobody else shall know
inputs   what commands are given to read
doing    the commands, one after the other; what a failure leaves is taken away again
"""

from windtunnel.stack.laptop.doing import Machine, down, status, up
from windtunnel.stack.laptop.parts import Laptop
from windtunnel.stack.laptop.plan import ENGINES

__all__ = ["ENGINES", "Laptop", "Machine", "down", "status", "up"]
