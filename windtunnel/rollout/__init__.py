"""The rollout brain: plan, state, evidence, decision. Pure: time comes in as an argument."""

from windtunnel.rollout.decide import decide
from windtunnel.rollout.decision import Decision
from windtunnel.rollout.evidence import Counters, Evidence, Order, PredictionNumbers, QualityNumbers
from windtunnel.rollout.numbers import prediction_numbers, quality_numbers
from windtunnel.rollout.plan import Plan
from windtunnel.rollout.replay import disagreements, entered, look_record, replay, resume
from windtunnel.rollout.several import Several, decide_several
from windtunnel.rollout.state import Action, RolloutState

__all__ = [
    "Action", "Counters", "Decision", "Evidence", "Order", "Plan", "PredictionNumbers", "QualityNumbers",
    "RolloutState", "Several", "decide", "decide_several", "disagreements", "entered", "look_record",
    "prediction_numbers", "quality_numbers", "replay", "resume",
]  # fmt: skip
