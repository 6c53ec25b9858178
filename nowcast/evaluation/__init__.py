"""Forecasters over many cases: sums of each, scores, intervals and the report."""
