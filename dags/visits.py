"""The life of ``visits``: three DAGs from one description."""

from windtunnel_airflow import lifecycle
from windtunnel_examples.visits.model import model

lifecycle(model)
