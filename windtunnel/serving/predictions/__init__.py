"""The prediction log: written beside each model server, published as Parquet, read by event time; and its labels."""

from windtunnel.serving.predictions.reading import PredictionLog, hour_of, seconds
from windtunnel.serving.predictions.watermark import Watermark
from windtunnel.serving.predictions.writer import PredictionWriter, new_prediction_ids

__all__ = ["PredictionLog", "PredictionWriter", "Watermark", "hour_of", "new_prediction_ids", "seconds"]
