"""The house's own DAG, ``windtunnel.steward``: abandoned runs, keep-warm time, retention, statistics, integrity."""

from windtunnel_airflow import steward_dag

dag = steward_dag()
