"""Scripts for the inside of images: standard library only, as old as Python 3.8, and no imports of the project."""
