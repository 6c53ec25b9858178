"""Radar archives become documented Zarr. Start at `data_prep.pipeline`; the contract is `data_prep.schema`."""
