"""What a person chooses for one adaptation, and the presets that name good choices."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

METHODS = ("source", "batch-norm", "consistency", "grata")
OBJECTIVES = (
    "entropy",
    "consistency",
    "reconstruction",
    "super-resolution",
    "denoising",
    "rotation",
)
LEARNING_RATE_RULES = ("quadratic", "linear", "softplus", "fixed")
MODES = ("continual", "episodic", "every-n")
PRECISIONS = ("float32", "bfloat16")
PREDICTIONS = ("stream", "final", "average")
SCRIBBLE_ROLES = ("none", "auxiliary", "pseudo", "both")


class SettingsError(ValueError):
    """A setting outside its range; the message says which one, and what is allowed."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of one adaptation, the scan and the model aside.

    Parameters
    ----------
    method : {"source", "batch-norm", "consistency", "grata"}
        See ``docs/how-it-works.md``; ``GraTa`` is Chen et al., AAAI 2025.
    auxiliary, pseudo : str
        Objectives of GraTa, one of ``OBJECTIVES``.
    learning_rate : float
        β of GraTa's rule, or the fixed rate of ``consistency``.
    learning_rate_rule : {"quadratic", "linear", "softplus", "fixed"}
        How the cosine similarity scales β.
    blend : float
        α in [0, 1]: statistics are ``α·current + (1−α)·source``. 1 is the published step.
    symmetric_entropy : bool
        Bernoulli entropy in place of the one-sided published form (sigmoid outputs only).
    perturbation : float or None
        Length of the auxiliary move θ' = θ − ρ·g/‖g‖; None is the published raw gradient θ − g.
    steps_per_slice : int
        Optimiser steps on one slice before the next one.
    passes : int
        How often the stream goes over the slices.
    mode : {"continual", "episodic", "every-n"}
        Whether θ lives on over the stream, is reset at each case, or every ``reset_every`` slices.
    predict : {"stream", "final", "average"}
        Masks as the stream goes by (published), or for the whole stack afterwards with the last θ,
        or with the mean of θ over all steps.
    six_views : bool
        Predict as the mean probability over the six flips and rotations.
    seed : int
        Seed of the strong view and of every other random draw.
    scribble : {"none", "auxiliary", "pseudo", "both"}
        What the reviewer's corrections are on slices that have some: not a teacher; GraTa's
        auxiliary objective, aligned with consistency; its pseudo objective, aligned with
        consistency; or the auxiliary and, together with consistency, the pseudo objective. With
        the method ``consistency``, ``pseudo`` is plain fine-tuning of θ on the corrected pixels,
        and ``both`` adds consistency. Other slices keep ``auxiliary`` and ``pseudo``.
    correction_steps : int
        Steps on each corrected slice, in turn with the other corrected ones.
    uncorrected_learn : bool
        Whether slices without corrections take their own steps in between; else the corrected
        ones alone teach. All slices are predicted afterwards.
    soft_labels : float
        τ in pixels of the slice: around corrected pixels their label counts with the weight
        exp(−distance/τ). 0: the corrected pixels alone.
    precision : {"float32", "bfloat16"}
        What the network computes in. bfloat16 is faster where the device has it; its effect on
        masks is in ``docs/performance.md``.
    hold : float
        The other pixels of a corrected slice, which the reviewer saw and left alone, are held to
        what the model said of them before the run; each weighs so much of a corrected one.
    """

    method: Literal["source", "batch-norm", "consistency", "grata"] = "grata"
    auxiliary: str = "entropy"
    pseudo: str = "consistency"
    learning_rate: float = 1e-4
    learning_rate_rule: str = "quadratic"
    blend: float = 1.0
    symmetric_entropy: bool = False
    perturbation: float | None = None
    steps_per_slice: int = 1
    passes: int = 1
    mode: Literal["continual", "episodic", "every-n"] = "continual"
    reset_every: int = 10
    predict: Literal["stream", "final", "average"] = "stream"
    six_views: bool = False
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    scribble: Literal["none", "auxiliary", "pseudo", "both"] = "none"
    correction_steps: int = 10
    uncorrected_learn: bool = False
    soft_labels: float = 0.0
    hold: float = 0.0

    def __post_init__(self) -> None:
        def one_of(name: str, allowed: tuple[str, ...]) -> None:
            value = getattr(self, name)
            if value not in allowed:
                raise SettingsError(f"{name} is {value!r}; choose one of {', '.join(allowed)}.")

        one_of("method", METHODS)
        one_of("auxiliary", OBJECTIVES)
        one_of("pseudo", OBJECTIVES)
        one_of("learning_rate_rule", LEARNING_RATE_RULES)
        one_of("mode", MODES)
        one_of("predict", PREDICTIONS)
        one_of("precision", PRECISIONS)
        one_of("scribble", SCRIBBLE_ROLES)
        if not 0 <= self.blend <= 1:
            raise SettingsError(f"blend is {self.blend}; it lies between 0 (source) and 1 (scan).")
        if not 0 < self.learning_rate < 10:
            raise SettingsError(f"learning_rate is {self.learning_rate}; it lies between 0 and 10.")
        if self.perturbation is not None and not self.perturbation > 0:
            raise SettingsError(f"perturbation is {self.perturbation}; it is above 0, or None.")
        if not 0 <= self.soft_labels < 1000:
            raise SettingsError(f"soft_labels is {self.soft_labels}; it is 0 or a few pixels.")
        if not 0 <= self.hold < 1e4:
            raise SettingsError(f"hold is {self.hold}; it is 0 or above.")
        if self.scribble != "none" and not self.learns:
            raise SettingsError(
                f"The method {self.method} learns nothing, so corrections cannot teach it; choose "
                "grata or consistency."
            )
        if self.scribble == "auxiliary" and self.method != "grata":
            raise SettingsError("Corrections as the auxiliary objective need the method grata.")
        if self.scribble != "none" and self.predict == "stream":
            raise SettingsError(
                "Corrections teach before the masks are predicted; set predict to final or average."
            )
        for name in ("steps_per_slice", "passes", "reset_every", "correction_steps"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it is at least 1.")

    @property
    def learns(self) -> bool:
        """Whether the method changes θ at all."""
        return self.method in ("consistency", "grata")

    def but(self, **changes: Any) -> Settings:
        """Return a copy with some settings changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as written into a run folder."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Read what `to_dict` wrote; unknown names are an error, not ignored."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SettingsError(f"Unknown setting {', '.join(unknown)}; known: {', '.join(known)}.")
        return cls(**values)


@dataclass(frozen=True)
class Preset:
    """A named choice of settings with the words that the interface shows."""

    name: str
    title: str
    summary: str
    settings: Settings


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "careful",
            "Careful",
            "Keeps the model's own statistics, learns gently where two signals agree, and predicts "
            "with the average over the whole stack and over six views. Recommended.",
            Settings(
                method="grata",
                auxiliary="consistency",
                pseudo="entropy",
                symmetric_entropy=True,
                perturbation=0.05,
                blend=0.0,
                learning_rate=1e-4,
                passes=1,
                predict="average",
                six_views=True,
            ),
        ),
        Preset(
            "as-published",
            "As published",
            "GraTa exactly as in the paper. Can make masks worse where the model already "
            "copes well with the new centre.",
            Settings(method="grata"),
        ),
        Preset(
            "consistency",
            "Consistency only",
            "Learns to give the same answer for flipped, rotated and disturbed copies of a slice.",
            Settings(method="consistency"),
        ),
        Preset(
            "batch-norm",
            "Statistics only",
            "Takes intensity statistics from the new scan; learns nothing.",
            Settings(method="batch-norm"),
        ),
        Preset(
            "source",
            "No adaptation",
            "The model as it was trained.",
            Settings(method="source"),
        ),
    )
}
ALIASES = {"grata": "as-published"}


def preset(name: str) -> Preset:
    """Return the preset called ``name`` (``grata`` is another name of ``as-published``).

    Raises
    ------
    SettingsError
        If there is no such preset; the message lists those there are.
    """
    found = PRESETS.get(ALIASES.get(name, name))
    if found is None:
        names = ", ".join([*PRESETS, *ALIASES])
        raise SettingsError(f"There is no method called {name!r}. Choose one of: {names}.")
    return found
