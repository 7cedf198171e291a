"""Doctor visits: the RAND Health Insurance Experiment, flown from first version to retraining."""
