"""How corrections teach by default; loads no torch."""

from __future__ import annotations

from .settings import Settings


def teaching_settings(base: Settings) -> Settings:
    """Return the settings with which corrections teach after a run with ``base``.

    The statistics stay as they were, for θ and statistics belong together. What else is here was
    chosen on development centres with ``benchmarks/corrections.py``; see ``docs/results.md``.
    """
    return base.but(
        method="grata",
        auxiliary="consistency",
        pseudo="entropy",
        symmetric_entropy=True,
        perturbation=0.05,
        scribble="pseudo",
        learning_rate=3e-3,
        learning_rate_rule="quadratic",
        blend=0.0 if base.method == "source" else base.blend,
        correction_steps=10,
        uncorrected_learn=False,
        soft_labels=0.0,
        hold=0.2,
        passes=1,
        steps_per_slice=1,
        mode="continual",
        predict="final",
        six_views=True,
    )
