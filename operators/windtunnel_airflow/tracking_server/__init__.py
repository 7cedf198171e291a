"""Any MLflow 3 server in Airflow: hook, operators, sensors, triggers, and DAGs that start when the registry changes.

Nothing here imports MLflow but what runs a model or a deployment, and that inside ``execute``.
"""
