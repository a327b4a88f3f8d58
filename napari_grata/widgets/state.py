"""What the dock shows in each situation: plain facts in, a description of the dock out.

No Qt here, so that every state of the interface can be read and tested by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from napari_grata.adaptation.flags import FRAME_CODE
from napari_grata.adaptation.settings import PRESETS
from napari_grata.scans.scan import counted

if TYPE_CHECKING:
    from napari_grata.adaptation.records import ChosenInfo
    from napari_grata.widgets.context import Context
    from napari_grata.widgets.session import Session


class Step(Enum):
    """The steps of the dock, in order."""

    SCAN = "Scan"
    MODEL = "Model"
    ADAPT = "Adapt"
    CORRECT = "Correct and choose"
    TAKE_OUT = "Take out"


@dataclass(frozen=True)
class Facts:
    """Everything that decides what the dock shows.

    Attributes
    ----------
    scan, model : str
        Names of the chosen scan and model; "" without one.
    misfit : str
        Why this model does not fit this scan, as a sentence; "" where it fits.
    better_model : str
        Title of a model that does fit.
    implausible : str
        Why the source mask cannot be right or the frame does not fit, as a sentence.
    unframed : str
        That no part of the only photograph shows what the model is to outline, as a sentence.
    other_region : bool
        There is a region, and it is not the one that the masks were made in.
    shift : str
        How far the scan lies from the source centre, in words.
    method : str
        Title of the chosen method.
    total, segmented, adapted, flagged, drawn : int
        Slices of the scan; with a source mask, with an adapted mask, flagged, painted on.
    noun : str
        "slice" or "photograph".
    running : {"segment", "adapt", "masks", "weigh", "compare", "task"} or None
        What the job does now.
    phase : {"", "pausing", "paused", "cancelling"}
        Of the job.
    unfinished : bool
        The run was cancelled and can go on.
    problem : str
        What went wrong last, until the next action.
    note, note_tone : str
        One more sentence about the last result.
    decided : str
        What is decided on the scan in view, in words; "" for nothing.
    done : bool
        Whether the scan is decided on as a whole.
    saved : {"", "kept", "taken out"}
        Whether the masks as they are lie in the run's own folder, or were written to files.
    reopened : str
        Date and settings of the saved run that is shown, if one is.
    looked : bool
        Whether the user has looked at the result since the run ended.
    """

    scan: str = ""
    model: str = ""
    misfit: str = ""
    better_model: str = ""
    implausible: str = ""
    unframed: str = ""
    other_region: bool = False
    shift: str = ""
    method: str = ""
    total: int = 1
    segmented: int = 0
    adapted: int = 0
    flagged: int = 0
    drawn: int = 0
    noun: str = "slice"
    running: str | None = None
    phase: str = ""
    unfinished: bool = False
    problem: str = ""
    note: str = ""
    note_tone: str = ""
    decided: str = ""
    done: bool = False
    saved: str = ""
    reopened: str = ""
    looked: bool = False


def facts_of(context: Context) -> Facts:
    """Return the situation that a dock is in."""
    session, runner, scan, entry = context.session, context.runner, context.scan, context.entry
    misfit = context.misfit()
    better = context.fitting_model() if misfit else None
    there: dict[str, Any] = {}
    if session is not None:
        there = {
            "segmented": len(session.segmented_slices),
            "adapted": len(session.adapted_slices),
            "flagged": len(session.flagged()),
            "drawn": len(session.drawn_slices),
            "note": context.runner.note(session),
            "note_tone": session.note_tone,
            "saved": session.saved,
            "reopened": session.reopened or "",
            "unframed": _unframed(session),
            "other_region": context.region not in (None, session.region),
        }
    if scan is not None:
        there |= {"total": scan.n_slices, "noun": scan.noun}
    return Facts(
        scan=context.layer.name if context.layer is not None else "",
        model=entry.title if entry is not None and entry.card is not None else "",
        misfit=misfit,
        better_model=better.title if better is not None else "",
        implausible="" if context.runner.finds_frame else context.implausible,
        shift=context.shift,
        method=PRESETS[context.preset if context.preset in PRESETS else "careful"].title,
        running=context.runner.kind,
        phase=runner.phase,
        unfinished=context.runner.unfinished,
        problem=context.problem,
        decided=context.decided,
        done=context.done,
        looked=context.looked,
        **there,
    )


def _unframed(session: Session) -> str:
    alone = session.flags.get(0, ()) if session.scan.n_slices == 1 else ()
    return next((flag.text for flag in alone if flag.code == FRAME_CODE), "")


@dataclass(frozen=True)
class Displayed:
    """Which mask the user looks at, and so decides about.

    Attributes
    ----------
    which : {"source", "adapted", "step", "none"}
        ``adapted`` also where both masks are in view.
    step : int or None
        The step looked back at.
    edited : bool
        Whether the user has painted on the adapted mask.
    """

    which: str
    step: int | None = None
    edited: bool = False


@dataclass(frozen=True)
class StepState:
    """How one step stands.

    Attributes
    ----------
    summary : str
        Its result, for the folded line.
    waiting : str
        What it waits for, "" if its turn has come.
    """

    summary: str = ""
    waiting: str = ""


@dataclass(frozen=True)
class NextStep:
    """The one highlighted button.

    Attributes
    ----------
    name : {"open", "adapt", "resume", "region", "look", "decide", "save", "next_case"}
    text, words : str
        On the button, and its tooltip.
    """

    name: str
    text: str
    words: str


@dataclass(frozen=True)
class DockState:
    """What the dock shows.

    Attributes
    ----------
    message, tone : str
        The one sentence on top, and how it is said: "", "good", "warning", "wrong".
    steps : dict of Step to StepState
    open_step : Step or None
        The step whose turn it is; None where nothing is open yet.
    next : NextStep or None
    may_choose : bool
        Whether scan, model and method may be changed.
    may_run : bool
        Whether Segment and Adapt can be pressed.
    why_not : str
        Why they cannot.
    may_pause, may_cancel : bool
    pause_text, cancel_text : str
    """

    message: str
    tone: str = ""
    steps: dict[Step, StepState] = field(default_factory=dict)
    open_step: Step | None = None
    next: NextStep | None = None
    may_choose: bool = True
    may_run: bool = False
    why_not: str = ""
    may_pause: bool = False
    may_cancel: bool = False
    pause_text: str = "Pause"
    cancel_text: str = "Cancel"


ADAPT_WORDS = (
    "Outline the structures with the model as it was trained, let the model get used to this "
    "scan, and outline again. The source mask is kept."
)


def chosen_words(chosen: Sequence[ChosenInfo], noun: str) -> str:
    """Say which masks are in use where they were chosen on slices that a person reviewed."""
    if not chosen:
        return ""
    reviewed, case = len(chosen[-1]["reviewed"]), chosen[-1].get("case")
    words = f"chosen on {counted(reviewed, f'reviewed {noun}')}"
    return f"{words} of {case}" if case else words


def dock_state(facts: Facts) -> DockState:
    """Return what the dock shows for these facts."""
    if not facts.scan:
        if facts.running:
            return _running(facts)
        message = facts.problem or "Open a scan, or try a sample, to begin."
        return DockState(message, "wrong" if facts.problem else "")
    if facts.running:
        return _running(facts)
    why_not = _why_not(facts)
    message, tone = _message(facts, why_not)
    return DockState(
        message,
        tone,
        steps=_steps(facts, why_not),
        open_step=_open_step(facts, why_not),
        next=_next(facts, why_not),
        may_run=not why_not,
        why_not=why_not,
    )


def _running(facts: Facts) -> DockState:
    words = {
        "segment": "Segmenting …",
        "adapt": "Adapting: the model gets used to this scan …",
        "compare": "Comparing methods; your masks stay as they are …",
        "weigh": "Weighing masks; yours stay as they are …",
        "cancelling": "Cancelling: ends with the step in progress …",
        "paused": "Paused. Resume to go on, or Cancel to keep what is finished.",
        "pausing": "Pausing after the step in progress …",
    }
    message = words.get(facts.phase or facts.running or "", "Working …")
    choosing = facts.running in ("weigh", "masks")
    paused, cancelling = facts.phase == "paused", facts.phase == "cancelling"
    resume = NextStep("resume", "Resume", "Go on from where the run stands.")
    return DockState(
        message,
        steps=_steps(facts, ""),
        open_step=None if not facts.scan else Step.CORRECT if choosing else Step.ADAPT,
        next=resume if paused else None,
        may_choose=False,
        why_not="Wait until the work in progress has ended, or cancel it.",
        may_pause=facts.running in ("segment", "adapt") and facts.phase in ("", "paused"),
        may_cancel=not cancelling,
        pause_text="Resume" if paused else "Pause",
        cancel_text="Cancelling …" if cancelling else "Cancel",
    )


def _why_not(facts: Facts) -> str:
    """Return why the model cannot work on the scan; "" if it can."""
    if not facts.model:
        return "There is no model yet: add one in step Model."
    if facts.misfit:
        hint = f" “{facts.better_model}” would fit." if facts.better_model else ""
        return f"{facts.misfit}{hint}"
    return ""


def _message(facts: Facts, why_not: str) -> tuple[str, str]:
    if facts.problem:
        return facts.problem, "wrong"
    if facts.reopened:
        return f"Saved run of {facts.reopened}. {facts.note}".strip(), ""
    if why_not:
        return why_not, "warning"
    if facts.implausible:
        return facts.implausible, "warning"
    if facts.adapted and facts.other_region and not facts.done:
        return "The masks are not of this region yet: adapt again.", "warning"
    if facts.unframed and not facts.done:
        return facts.unframed, "warning"
    if facts.adapted:
        return facts.note or "Adapted.", facts.note_tone
    if facts.segmented:
        return f"The source mask is there. {facts.note}".strip(), facts.note_tone
    return f"Ready. {facts.note}".strip(), facts.note_tone


def _steps(facts: Facts, why_not: str) -> dict[Step, StepState]:
    of_all = "" if facts.total == 1 else f", {counted(facts.total, facts.noun)}"
    model = " · ".join(part for part in (facts.model, facts.shift) if part)
    if facts.adapted:
        flagged = f", {facts.flagged} flagged" if facts.flagged else ", none flagged"
        adapt = f"{facts.method}: {counted(facts.adapted, facts.noun)}{flagged}"
    elif facts.segmented:
        adapt = "source mask only"
    else:
        adapt = facts.method
    drawn = f"{counted(facts.drawn, facts.noun)} corrected" if facts.drawn else ""
    correct = " · ".join(part for part in (drawn, facts.decided) if part)
    return {
        Step.SCAN: StepState(f"{facts.scan}{of_all}"),
        Step.MODEL: StepState(model),
        Step.ADAPT: StepState(adapt, "waits for a model that fits" if why_not else ""),
        Step.CORRECT: StepState(correct, "" if facts.adapted else "waits for an adapted mask"),
        Step.TAKE_OUT: StepState(
            {"kept": "kept, no files saved yet", "taken out": "saved"}.get(facts.saved, ""),
            "" if facts.segmented or facts.adapted else "waits for a mask",
        ),
    }


def _open_step(facts: Facts, why_not: str) -> Step:
    if why_not:
        return Step.MODEL
    if facts.implausible and not facts.adapted:
        return Step.SCAN
    if not facts.adapted:
        return Step.ADAPT
    return Step.TAKE_OUT if facts.done else Step.CORRECT


_REGION = NextStep(
    "region", "Draw a region", "Draw a rectangle around what the model is to outline."
)

_ALL_THE_SAME = NextStep("adapt", "Adapt all the same", ADAPT_WORDS)


def _next(facts: Facts, why_not: str) -> NextStep | None:
    if why_not:
        return None
    if facts.implausible and not facts.adapted:
        # Of a volume a part tells no more than all of it: skull, voxel size or model are wrong.
        return _REGION if facts.noun == "photograph" else _ALL_THE_SAME
    if not facts.adapted:
        return NextStep("adapt", "Adapt", ADAPT_WORDS)
    if facts.done and not facts.saved:
        return NextStep("save", "Save masks …", "Write the masks on the scan's own grid.")
    if facts.done:
        return None
    if facts.other_region and not facts.reopened:
        return NextStep("adapt", "Adapt", ADAPT_WORDS)
    if facts.unframed:
        return _REGION
    if facts.flagged and not facts.looked:
        words = counted(facts.flagged, f"flagged {facts.noun}")
        return NextStep("look", f"Look at {words}", "Go to the next one that needs a look.")
    return NextStep("decide", "Decide below", "Accept, keep, edit or reject what you see.")
