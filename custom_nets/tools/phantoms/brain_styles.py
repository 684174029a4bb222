"""Styles of synthetic cases: how hard their tumours are to delineate, and the scanners that took the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from custom_nets.errors import InputError

Range = tuple[float, float]
"""Least and greatest value of something that every case or lesion draws."""

Signals = Mapping[str, tuple[float, float, float, float]]
"""A number for each tissue in FLAIR, T1, T1ce, T2."""


@dataclass(frozen=True)
class Scanner:
    """Effect of a scanner and its protocol on the signal of tissue.

    Attributes:
        gamma: exponent of the signal in FLAIR, T1, T1ce, T2: above 1 it spreads bright tissues, below 1 dark ones.
        contrast: factors on the signal of single tissues.
        noise: standard deviation of the noise; white matter in T1 is 1.
        blur: standard deviation of the blur in voxels: a scanner resolves what its voxels resolve.
        bias: strength of the bias field.
    """

    gamma: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    contrast: Signals = field(default_factory=dict)
    noise: Range = (0.035, 0.06)
    blur: Range = (0.35, 0.55)
    bias: float = 0.09


@dataclass(frozen=True)
class LesionPlan:
    """Distributions that the lesions of a case are drawn from.

    Attributes:
        counts: odds of one, two, three, … lesions.
        main_volume: volume of the first lesion (mm³).
        small_share: share of the other lesions that are small.
        small_volume: volume of a small lesion (mm³).
        satellite_volume: volume of the other lesions that are not small (mm³).
        core_share: share of a lesion's volume that is tumour core.
        quiet_cases: share of cases without enhancing tumour.
        quiet_lesions: share of the further lesions without enhancing tumour in a case that has some.
        rim: thickness of the enhancing rim (mm).
        cover: how much of a rim enhances, in standard deviations: 1.5 nearly all, 0 half of it.
        solid: share of the core of an enhancing lesion that is neither necrotic nor enhancing.
        fade: width over which oedema fades around its labelled border (mm); at most 1.5 times the lesion's radius.
    """

    counts: tuple[float, ...]
    main_volume: Range
    small_share: float
    small_volume: Range
    satellite_volume: Range
    core_share: Range
    quiet_cases: float
    quiet_lesions: float
    rim: Range
    cover: Range
    solid: Range
    fade: Range


@dataclass(frozen=True)
class PhantomStyle:
    """Look of a cohort of synthetic cases.

    Attributes:
        lesions: what lesions are drawn from; None: the fixed sequence of the standard style.
        scanners: each case was taken with one of them.
        signals: signals of tissues that differ from the standard ones.
        pull: share by which a case's disease is drawn towards the signal of healthy brain.
        border_doubt: by how much the visible border strays from the labelled one (mm, standard deviation).
        patchiness: share of its signal that oedema loses in places.
        core_blur: least width over which the borders of core and enhancing tumour are spread (mm).
        spot_volume: volume of harmless white matter hyperintensity (mm³).
        spot_blur: least width over which its borders are spread (mm).
        cap: thickness of its caps around the ventricles (mm).
        vessel: half width of the veins (mm).
        plexus: by how much the choroid plexus is larger than its usual outline (mm).
    """

    lesions: LesionPlan | None = None
    scanners: tuple[Scanner, ...] = (Scanner(),)
    signals: Signals = field(default_factory=dict)
    pull: Range = (0.0, 0.0)
    border_doubt: float = 0.0
    patchiness: float = 0.0
    core_blur: float = 0.0
    spot_volume: Range = (12e3, 40e3)
    spot_blur: float = 0.0
    cap: float = 1.5
    vessel: float = 1.1
    plexus: float = 0.0

    @property
    def all_signals(self) -> Signals:
        """Signals of all tissues, before a scanner and the case vary them."""
        return {**SIGNALS, **self.signals}


# Signal of each tissue in FLAIR, T1, T1ce, T2; white matter in T1 is 1. Every case varies them.
SIGNALS: Signals = MappingProxyType(
    {
        "white": (0.62, 1.00, 1.02, 0.45),
        "grey": (0.79, 0.74, 0.78, 0.63),
        "fluid": (0.24, 0.34, 0.35, 1.15),
        "white spot": (1.08, 0.86, 0.87, 0.62),
        "vessel": (0.40, 0.60, 1.60, 0.40),
        "plexus": (0.70, 0.62, 1.40, 0.85),
        "oedema": (1.09, 0.72, 0.74, 0.92),
        "enhancing": (0.88, 0.68, 1.50, 0.78),
        "necrotic": (0.62, 0.46, 0.48, 1.12),
        "dark core": (0.86, 0.58, 0.60, 1.02),  # the core of a tumour that does not enhance
    }
)

_PLAN = LesionPlan(
    counts=(0.2, 0.3, 0.3, 0.2),
    main_volume=(9e3, 75e3),
    small_share=0.6,
    small_volume=(220.0, 950.0),
    satellite_volume=(1.3e3, 8e3),
    core_share=(0.14, 0.42),
    quiet_cases=0.17,
    quiet_lesions=0.3,
    rim=(1.8, 4.5),
    cover=(0.0, 1.4),
    solid=(0.1, 0.6),
    fade=(4.0, 10.0),
)

_HARD = PhantomStyle(
    lesions=_PLAN,
    scanners=(
        Scanner(noise=(0.05, 0.08), blur=(0.4, 0.6), bias=0.11),
        Scanner(  # a strong magnet: T1 of high contrast, uneven
            gamma=(0.9, 1.3, 1.15, 0.85),
            contrast={"fluid": (1.0, 0.7, 0.7, 1.0), "grey": (1.0, 0.92, 0.95, 1.0)},
            noise=(0.04, 0.07),
            blur=(0.35, 0.5),
            bias=0.16,
        ),
        Scanner(  # an old one: flat T1, fluid half suppressed
            gamma=(1.15, 0.75, 0.85, 1.2),
            contrast={"fluid": (1.5, 1.2, 1.2, 0.95), "grey": (1.06, 1.0, 1.0, 1.05)},
            noise=(0.07, 0.1),
            blur=(0.6, 0.8),
            bias=0.1,
        ),
        Scanner(  # a FLAIR of high contrast; little contrast agent left when T1ce was taken
            gamma=(1.3, 0.9, 1.0, 1.0),
            contrast={
                "fluid": (0.6, 1.0, 1.0, 1.0),
                "white": (1.0, 1.0, 1.0, 1.12),
                "vessel": (1.0, 1.0, 0.8, 1.0),
                "enhancing": (1.0, 1.0, 0.92, 1.0),
            },
            noise=(0.05, 0.08),
            blur=(0.45, 0.65),
            bias=0.13,
        ),
    ),
    # White spots are nearly as bright as oedema in T2 too.
    signals={"white spot": (1.07, 0.80, 0.81, 0.76), "plexus": (0.78, 0.64, 1.42, 0.85)},
    pull=(0.05, 0.35),
    border_doubt=0.6,
    patchiness=0.25,
    core_blur=2.5,
    spot_volume=(13e3, 45e3),
    spot_blur=4.0,
    cap=3.0,
    vessel=1.5,
    plexus=1.5,
)

_SHIFTED = replace(
    _HARD,
    lesions=replace(
        _PLAN,
        counts=(0.15, 0.25, 0.3, 0.3),
        main_volume=(6e3, 60e3),
        core_share=(0.12, 0.5),
        quiet_cases=0.22,
        rim=(1.6, 4.0),
    ),
    scanners=(
        Scanner(
            gamma=(0.8, 1.55, 1.35, 1.35),
            contrast={"fluid": (1.7, 0.8, 0.8, 1.0), "grey": (1.08, 1.0, 1.0, 1.0)},
            noise=(0.08, 0.11),
            blur=(0.7, 0.9),
            bias=0.18,
        ),
        Scanner(
            gamma=(1.5, 0.6, 0.7, 0.7),
            contrast={"grey": (1.0, 1.05, 1.05, 1.1), "vessel": (1.0, 1.0, 1.15, 1.0)},
            noise=(0.09, 0.12),
            blur=(0.55, 0.8),
            bias=0.21,
        ),
        Scanner(
            gamma=(1.1, 1.1, 0.75, 1.5),
            contrast={"white": (1.1, 0.92, 0.92, 1.2), "fluid": (0.5, 1.3, 1.3, 0.85)},
            noise=(0.1, 0.13),
            blur=(0.8, 1.0),
            bias=0.16,
        ),
    ),
    pull=(0.1, 0.4),
)

STYLES: Mapping[str, PhantomStyle] = MappingProxyType({"standard": PhantomStyle(), "hard": _HARD, "shifted": _SHIFTED})
"""Styles by name: `standard`; `hard`, with ambiguous borders, small lesions and several scanners; and `shifted`, as
`hard` with scanners that no hard case was taken with, a test set under domain shift."""


def get_style(name: str) -> PhantomStyle:
    """Returns the style called `name`.

    Raises:
        InputError: when there is no such style.
    """
    if name not in STYLES:
        msg = f"style {name!r} is unknown; expected one of {', '.join(STYLES)}"
        raise InputError(msg)
    return STYLES[name]
