"""Container images of cells: what they are made of, building, pushing, and what is inside them."""
