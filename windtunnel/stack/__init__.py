"""The embedded stack: Airflow, MLflow, Envoy and Windtunnel's own processes, supervised, under one home.

settings    what a person may set, HOME/windtunnel.toml
ports       free ones, remembered; who holds a taken one
secretbox   generated passwords and keys, one 0600 file each
database    SQLite files or PostgreSQL; statistics kept fresh
airflow     airflow.cfg, connection, log-in, DAG files; the four programs
mlflow      the MLflow server's program
serving     the programs of envoy, meter and guard
programs    what a supervised program is, and supervisord's configuration
supervisor  talking to supervisord
processes   finding and ending whatever belongs to a home
probes      asking each component how it is; health: deciding what the answer means
disk        space and quotas
doctor      everything that may be wrong, and how to mend it
stack       up, down, status: the order of it all
"""
