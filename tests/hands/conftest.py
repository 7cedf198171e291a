"""The fakes beside these tests can be imported by them, and Airflow keeps its things out of the user's home."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# Before anything imports Airflow: it reads its configuration at import and would write into the user's home.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="wt-airflow-"))
sys.path.insert(0, str(Path(__file__).parent))
