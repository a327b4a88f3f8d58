"""What a user chooses for one adaptation, and the presets that name good choices.

Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .methods.register import METHODS, REFUSED

OBJECTIVES = (
    "entropy",
    "consistency",
    "reconstruction",
    "super-resolution",
    "denoising",
    "rotation",
)
LEARNING_RATE_RULES = ("quadratic", "linear", "softplus", "fixed")
PRECISIONS = ("float32", "bfloat16")


class SettingsError(ValueError):
    """A setting outside its range; the message says which one, and what is allowed."""


def _setting(
    default: Any,
    title: str,
    description: str,
    *,
    used: str = "method",
    enum: Mapping[str, str] | tuple[str, ...] = (),
    between: tuple[float, float] = (-math.inf, math.inf),
    unit: str = "",
    optional: bool = False,
) -> Any:
    """Return a field of `Settings` that says what it is, in magicgui's and JSON Schema's words.

    Parameters
    ----------
    default : bool, int, float, str or None
    title, description : str
        A word or two for a form, and a sentence.
    used : {"method", "always", "learning", "teaching", "stack"}
        By the methods that name it, by all, by all that learn, where corrections teach, or by
        those that learn from batches of the whole stack.
    enum : mapping or tuple of str, optional
        The choices, with words for each where their names do not say it.
    between : (float, float), optional
        Ends included.
    unit : str
    optional : bool
        Whether None is a value.
    """
    about: dict[str, Any] = {"title": title, "description": description, "unit": unit}
    about |= {"used": used, "nullable": optional}
    about["kind"] = float if default is None else type(default)
    if enum:
        about |= {"enum": tuple(enum), "words": dict(enum) if isinstance(enum, Mapping) else {}}
    elif about["kind"] not in (bool, str):
        about |= {"minimum": between[0], "maximum": between[1]}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of one adaptation, the scan and the model aside.

    What each field means, its range or choices and its unit stand in its metadata, where forms,
    the command line and pages find them.

    Raises
    ------
    SettingsError
        If a value is outside its range, or two do not go together.
    """

    method: str = _setting(
        "grata",
        "Does",
        "What the model does with the new scan.",
        used="always",
        enum={name: info.title for name, info in METHODS.items()},
    )
    auxiliary: str = _setting(
        "entropy",
        "Signal 1",
        "The first signal: it moves the model a little before the second one is measured. "
        "(Auxiliary objective.)",
        enum=OBJECTIVES,
    )
    pseudo: str = _setting(
        "consistency",
        "Signal 2",
        "The second signal: the model learns from this one. (Pseudo objective.)",
        enum=OBJECTIVES,
    )
    learning_rate: float = _setting(
        1e-4,
        "Rate",
        "How fast the model may change. (β, the learning rate before the rule.)",
        between=(1e-9, 10),
    )
    learning_rate_rule: str = _setting(
        "quadratic",
        "Rule",
        "How the agreement of the two signals sets the size of a step. (Learning rate from the "
        "cosine similarity: quadratic is the published (cos + 1)²/4.)",
        enum=LEARNING_RATE_RULES,
    )
    blend: float = _setting(
        1.0,
        "Blend",
        "How much the new scan's own intensity statistics count: 0 only the model's, 1 only the "
        "scan's. (α of the normalisation layers; published: 1.)",
        between=(0, 1),
    )
    symmetric_entropy: bool = _setting(
        False,
        "Symmetric entropy",
        "Uncertain pixels are pulled to neither side. (Bernoulli entropy instead of the published "
        "one-sided form; for structures that may overlap.)",
    )
    stag: float = _setting(
        0.0,
        "Align entropy",
        "Beside an entropy: pixels of one class learn along one direction. 0 is off; 0.1 is a "
        "start. (λ of stAG, our reading: the paper's is not public.)",
        between=(0, 100),
    )
    perturbation: float | None = _setting(
        None,
        "Move",
        "Length of the first signal's move; none is the raw gradient, as published. "
        "(ρ in θ' = θ − ρ·g/‖g‖.)",
        between=(1e-6, 1000),
        optional=True,
    )
    decay: float = _setting(
        0.98,
        "Follows",
        "How slowly the model that draws the masks follows the copy that learns: 0 at once. "
        "(Decay of the teacher's running mean.)",
        between=(0, 0.9999),
    )
    certain: bool = _setting(
        True,
        "Certain targets",
        "The copy learns the mask that the views agree on, and not how sure they are of it.",
    )
    parameters: str = _setting(
        "usual",
        "Adapts",
        "What of the model may change. (θ: scale and shift of the normalisation layers, or all "
        "weights where the method says so; the last block is what runs after the network's last "
        "change of size; updates of rank 4 are learnt beside all convolutions and linear layers.)",
        enum={
            "usual": "As the method says",
            "norms": "Scale and shift",
            "biases": "Biases",
            "last-block": "Last block",
            "low-rank": "Low-rank updates",
            "all": "All weights",
            "named": "Parameters named …",
        },
    )
    names: str = _setting(
        "",
        "Named",
        "Names of the parameters that may change, with * for any letters and commas between them, "
        "such as *adapter*, *.bias.",
    )
    batch: int = _setting(
        8,
        "Together",
        "How many slices teach one step. (Batch size.)",
        used="stack",
        between=(1, 256),
        unit="slices",
    )
    pass_slices: int = _setting(
        24,
        "Of a stack",
        "Of a larger stack every pass draws so many slices: neighbours teach the same.",
        used="stack",
        between=(1, 100_000),
        unit="slices",
    )
    reserve: float = _setting(
        32.0,
        "Reserve",
        "How many slices of the model's own centre the new statistics are weighed against: of N "
        "slices they count N/(N + reserve). (τ.)",
        between=(0, 1e6),
        unit="slices",
    )
    steps_per_slice: int = _setting(
        1,
        "Steps",
        "How many steps the model takes on one slice before the next.",
        used="learning",
        between=(1, 10_000),
    )
    passes: int = _setting(
        1,
        "Passes",
        "How often the model goes over all slices.",
        used="learning",
        between=(1, 10_000),
    )
    mode: str = _setting(
        "continual",
        "Memory",
        "Whether what was learned stays from case to case.",
        used="learning",
        enum={
            "continual": "Goes on over all cases",
            "episodic": "Starts anew at each case",
            "every-n": "Starts anew every … slices",
        },
    )
    reset_every: int = _setting(
        10,
        "Every",
        "After how many slices the model starts anew.",
        used="learning",
        between=(1, 1_000_000),
        unit="slices",
    )
    predict: str = _setting(
        "stream",
        "Masks",
        "Whether masks are made as the slices go by (published), or for all slices once the model "
        "has seen them.",
        used="learning",
        enum={
            "stream": "As the slices go by",
            "final": "Afterwards, last state",
            "average": "Afterwards, mean state",
        },
    )
    six_views: bool = _setting(
        False,
        "Mean of the views",
        "Average over flips and rotations that the model is used to, six unless its card names "
        "others: slower, usually smoother masks.",
        used="always",
    )
    reframe: bool = _setting(
        False,
        "Find the frame",
        "On photographs, read the part in which the structures have their usual size and place, "
        "where that is found for sure. Off where a region is drawn, and with models whose card "
        "names no usual extent.",
        used="always",
    )
    seed: int = _setting(
        0,
        "Seed",
        "Runs with the same number give the same masks (on the processor).",
        used="always",
        between=(0, 2**31 - 1),
    )
    precision: str = _setting(
        "float32",
        "Numbers",
        "bfloat16, on devices that have it: about half the time with large models, less with "
        "small ones. Masks differ a little (mean Dice by at most 0.02 points on the development "
        "centres, single masks by up to 0.2).",
        used="always",
        enum=PRECISIONS,
    )
    scribble: str = _setting(
        "none",
        "Corrections",
        "How corrections teach, on the slices that have some. (Pseudo objective, aligned with "
        "consistency; auxiliary objective, aligned with consistency; auxiliary and, together with "
        "consistency, pseudo objective. Other slices keep their two signals.)",
        enum={
            "none": "Do not teach",
            "auxiliary": "Only steer the views",
            "pseudo": "As far as views agree",
            "both": "Together with the views",
        },
    )
    correction_steps: int = _setting(
        10,
        "Steps each",
        "Steps on each corrected slice, in turn with the other corrected ones.",
        used="teaching",
        between=(1, 10_000),
    )
    uncorrected_learn: bool = _setting(
        False,
        "Others learn",
        "Whether slices without corrections take their own steps in between; all slices are "
        "predicted afterwards.",
        used="teaching",
    )
    soft_labels: float = _setting(
        0.0,
        "Reach",
        "Around corrected pixels their label counts with the weight exp(−distance/τ); 0: the "
        "corrected pixels alone. (τ.)",
        used="teaching",
        between=(0, 1000),
        unit="pixels",
    )
    hold: float = _setting(
        0.0,
        "Hold",
        "Pixels of a corrected slice that were left alone are held to what the model said of "
        "them before; each weighs so much of a corrected one.",
        used="teaching",
        between=(0, 10_000),
    )

    def __post_init__(self) -> None:
        for name in _FIELDS:
            checked(name, getattr(self, name))
        if self.scribble == "none":
            return
        if "scribble" not in METHODS[self.method].settings_used:
            able = [name for name, info in METHODS.items() if "scribble" in info.settings_used]
            raise SettingsError(
                f"The method {self.method} learns nothing from corrections; choose "
                f"{' or '.join(able)}."
            )
        if self.scribble == "auxiliary" and not self.uses("auxiliary"):
            raise SettingsError("Corrections as the auxiliary objective need the method grata.")
        if not self.predicts_afterwards:
            raise SettingsError(
                "Corrections teach before the masks are predicted; set predict to final or average."
            )

    @property
    def learns(self) -> bool:
        """Whether the method changes θ at all."""
        return METHODS[self.method].learns != "nothing"

    @property
    def adapted(self) -> tuple[str, str]:
        """What of a network θ is, as `normalisation.chosen_parameters` takes it."""
        which = self.parameters if self.uses("parameters") else "usual"
        if which == "usual":
            which = "all" if METHODS[self.method].learns == "weights" else "norms"
        return which, self.names

    @property
    def learns_from_stack(self) -> bool:
        """Whether a step takes a batch of slices, drawn from all of them."""
        return METHODS[self.method].learns == "weights"

    @property
    def prompts(self) -> bool:
        """Whether each slice is shown to the model in a way that was learnt for it alone."""
        return METHODS[self.method].learns in ("prompt", "days")

    @property
    def predicts_afterwards(self) -> bool:
        """Whether the masks are made once the model has learnt, not as the slices go by."""
        learns = METHODS[self.method].learns
        return learns in ("statistics", "weights") or (
            learns == "theta" and self.predict != "stream"
        )

    def uses(self, name: str) -> bool:
        """Whether a field changes anything, the others being as they are."""
        used = _FIELDS[name]["used"]
        if used == "method" and name not in METHODS[self.method].settings_used:
            return False
        if used in ("learning", "teaching") and not self.learns:
            return False
        by_batches = METHODS[self.method].learns in ("weights", "days")
        if used == "stack" and not by_batches:
            return False
        if name == "steps_per_slice" and (by_batches or self.prompts):
            return False
        if name == "predict" and METHODS[self.method].learns != "theta":
            return False
        if used == "teaching" and self.scribble == "none":
            return False
        if name == "names":
            return self.parameters == "named"
        if name == "symmetric_entropy" or (name == "stag" and self.method == "grata"):
            return "entropy" in (self.auxiliary, self.pseudo)
        return name != "reset_every" or self.mode == "every-n"

    def but(self, **changes: Any) -> Settings:
        """Return a copy with some settings changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as written into a run folder."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Read what `to_dict` wrote; unknown names are an error, not ignored."""
        if not isinstance(values, Mapping):
            raise SettingsError(f"Settings are names with values, not {values!r:.80}.")
        unknown = sorted(str(name) for name in values if name not in _FIELDS)
        if unknown:
            known = ", ".join(_FIELDS)
            raise SettingsError(f"Unknown setting {', '.join(unknown)}; known: {known}.")
        return cls(**values)


_FIELDS: dict[str, Mapping[str, Any]] = {one.name: one.metadata for one in fields(Settings)}


def checked(name: str, value: Any) -> Any:
    """Return the value of one setting if it is allowed.

    Raises
    ------
    SettingsError
        The message says what is.
    """
    about = _FIELDS[name]
    kind, low, high = about["kind"], about.get("minimum", 0), about.get("maximum", 0)
    # Methods may have been registered since.
    allowed = tuple(METHODS) if name == "method" else about.get("enum")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None and about["nullable"]:
        return value
    if allowed is not None:
        fits, wanted = value in allowed, f"choose one of {', '.join(allowed)}"
    elif kind is bool:
        fits, wanted = isinstance(value, bool), "it is true or false"
    elif kind is str:
        fits, wanted = isinstance(value, str) and len(value) <= 1000, "it is a line of text"
    elif kind is int:
        fits = number and isinstance(value, int) and low <= value <= high
        wanted = f"it is a whole number between {low:,} and {high:,}"
    else:
        fits = number and low <= value <= high
        wanted = f"it lies between {low:,} and {high:,}"
    if not fits:
        try:
            shown = f"{value!r:.60}"
        except ValueError:  # more digits than Python writes
            shown = "a huge number"
        also = ", or none" if about["nullable"] else ""
        raise SettingsError(f"{name} is {shown}; {wanted}{also}.")
    return value


@dataclass(frozen=True)
class Preset:
    """A named choice of settings with the words that the interface shows."""

    name: str
    title: str
    summary: str
    settings: Settings


def _of_method(name: str) -> Preset:
    info = METHODS[name]
    return Preset(name, info.title, info.summary, Settings(method=name, **info.defaults))


_CHOSEN = (
    Preset(
        "careful",
        "Careful",
        "Finds the frame of photographs, keeps the model's own statistics, learns gently where two "
        "signals agree, and predicts the stack in all views. Recommended.",
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
            reframe=True,
        ),
    ),
    Preset(
        "learn-from-stack",
        "Learn from the stack",
        "All weights learn from the whole stack, in several passes, what the model says of all "
        "views. Gains most, and can move masks the wrong way: look before you accept.",
        Settings(
            method="mean-teacher",
            blend=0.0,
            learning_rate=1e-4,
            learning_rate_rule="fixed",
            passes=10,
            predict="final",
            six_views=True,
            reframe=True,
        ),
    ),
    Preset(
        "as-published",
        "As published",
        "GraTa exactly as in the paper. Can make masks worse where the model already "
        "copes well with the new centre.",
        Settings(method="grata"),
    ),
)
ALIASES = {"grata": "as-published", "mean-teacher": "learn-from-stack"}
PRESETS: dict[str, Preset] = {
    one.name: one
    for one in (*_CHOSEN, *(_of_method(name) for name in METHODS if name not in ALIASES))
}
"""Choices by name: those made with care, then each method with its defaults."""


def preset(name: str) -> Preset:
    """Return the preset called ``name`` (``grata`` is another name of ``as-published``).

    Raises
    ------
    SettingsError
        If there is no such preset; the message lists those there are.
    """
    found = PRESETS.get(ALIASES.get(name, name))
    if found is None and name in METHODS:
        found = _of_method(name)
    if found is None:
        names = ", ".join([*PRESETS, *ALIASES])
        said = f"There is no method called {name!r}. Choose one of: {names}."
        raise SettingsError(" ".join([said, *REFUSED.values()]))
    return found


def teaching_settings(base: Settings) -> Settings:
    """Return the settings with which corrections teach after a run with ``base``.

    The statistics stay as they were, for θ and statistics belong together. What else is here was
    chosen on development centres with ``benchmarks/corrections.py``; see
    ``docs/results-details.md``. Where all weights learnt, all go on learning, as copies do from
    reviewed slices (``benchmarks/choosing.py``).
    """
    if not base.uses("parameters"):
        base = base.but(parameters="usual")
    if base.learns_from_stack:
        return base.but(
            method="mean-teacher",
            scribble="both",
            learning_rate=1e-4,
            decay=0.8,
            hold=0.2,
            correction_steps=20,
            pass_slices=12,
            passes=1,
            uncorrected_learn=False,
        )
    return base.but(
        method="grata",
        auxiliary="consistency",
        pseudo="entropy",
        symmetric_entropy=True,
        perturbation=0.05,
        scribble="pseudo",
        learning_rate=3e-3,
        learning_rate_rule="quadratic",
        blend=base.blend if base.uses("blend") else 0.0,
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
