"""Everything that touches Qt or napari's layers.

``dock`` assembles sections; sections know the `Context` alone, never the dock or one another.
"""
