"""People's orders on running releases through Airflow: ``windtunnel.control``."""

from windtunnel_airflow import control_dag

dag = control_dag()
