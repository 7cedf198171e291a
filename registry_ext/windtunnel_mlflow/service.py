"""What MLflow's own API cannot say: verdicts, policies, rollouts, promotion, withdrawal; and the reading side.

Everything returned is plain JSON values, exactly what the endpoints answer.
"""

from __future__ import annotations

from windtunnel_mlflow.law.policies import Policies
from windtunnel_mlflow.ledger.verdicts import Verdicts
from windtunnel_mlflow.reading import Reading
from windtunnel_mlflow.releases.rollouts import Rollouts


class Service(Reading, Verdicts, Policies, Rollouts):
    """The operations behind ``/api/windtunnel/v1``."""
