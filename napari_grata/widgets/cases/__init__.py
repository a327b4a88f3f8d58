"""The list of cases in napari: what is to do, what is done, and the case in view."""
