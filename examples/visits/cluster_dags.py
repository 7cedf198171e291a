"""The DAG file of ``windtunnel cluster demo``: the life of ``visits``, people's orders, and the house's own DAG."""

from windtunnel_airflow import control_dag, lifecycle, steward_dag
from windtunnel_examples.visits.cluster import model

lifecycle(model)
control = control_dag()
steward = steward_dag(kubernetes_conn_id="kubernetes_default")
