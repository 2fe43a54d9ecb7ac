"""How a model is made ready and served: weights, engines, launchers, chips."""
