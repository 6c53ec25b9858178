"""Radar archives become documented Zarr: `pipeline` is the recipe, `schema` the contract."""
