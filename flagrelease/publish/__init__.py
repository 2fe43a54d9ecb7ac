"""Publishing a release: one interface, one file a place."""
