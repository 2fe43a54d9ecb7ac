"""Where a server runs: as a process on this host, or in a container."""
