"""Measurements on a host with a GPU."""
