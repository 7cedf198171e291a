from sea import model

from windtunnel_airflow import lifecycle  # an Airflow DAG file

lifecycle(model)
