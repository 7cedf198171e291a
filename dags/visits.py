"""The life of ``visits``: three DAGs from one description."""

from windtunnel_examples.visits.model import model

from windtunnel_airflow import lifecycle

lifecycle(model)
