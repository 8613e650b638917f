"""Measuring: what the reference labeller says of answers, statistics, language modelling, scores."""
