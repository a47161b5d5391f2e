"""Plausible defects of a correct strategy, each with the promise that it breaks, as the documentation lists them."""

from mutants_of_dropping import SeedlessStart
from mutants_of_growth import WithReplacement
from mutants_of_state import MomentumGrowing
from sound_strategy import MUTANTS, Guided, Sound, Traceable

__all__ = ["MUTANTS", "Guided", "MomentumGrowing", "SeedlessStart", "Sound", "Traceable", "WithReplacement"]
