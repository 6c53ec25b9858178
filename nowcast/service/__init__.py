"""Forecasts on a schedule: newest frames to a published forecast, unattended; see docs/operations.md."""
