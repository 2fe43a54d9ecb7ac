"""Chips that are declared as simulated, so that sweeps over many cells really go through Prefect on one machine.

The flow, its stages, the gate, the store, the publisher, Prefect's server and its workers are the real ones. Serving,
building images and asking the model are stand-ins that take a time drawn from a distribution (`stand_ins`).
"""
