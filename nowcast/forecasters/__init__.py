"""Forecasters: from the frames of a radar to members, all with one interface."""
