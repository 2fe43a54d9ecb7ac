"""Holds llama.cpp's server in a process of its own: `python llama_cpp_server.py --model=… --port=…`."""

from __future__ import annotations

import argparse
import os
import signal


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser()
    for name in ("model", "served-name", "host"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("port", "threads", "context", "slots"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    # Blocked before the server's threads start, so that only sigwait below receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})

    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = arguments.model
    parameters.model_alias = {arguments.served_name}
    parameters.hostnames = [arguments.host]
    parameters.port = arguments.port
    parameters.n_parallel = arguments.slots
    parameters.n_ctx = arguments.context * arguments.slots
    parameters.cpuparams.n_threads = arguments.threads
    parameters.cpuparams_batch.n_threads = arguments.threads
    parameters.offline = True
    # Answers from a reused prompt cache differ in the last bits, and then in words; every answer starts clean.
    parameters.cache_prompt = False
    parameters.cache_ram_mib = 0
    server = xllamacpp.Server(parameters)
    print(f"listening on {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    # The C++ threads have no orderly end while requests are in flight.
    os._exit(0)


if __name__ == "__main__":
    main()
