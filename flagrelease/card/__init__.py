"""The model card: its data, and rendering it."""
