"""What to explore: one function of an Optuna trial per method, and named budgets."""

from __future__ import annotations

from search_spaces.budgets import BUDGETS, Budget, budget_named
from search_spaces.methods import SUGGEST, starting_point

__all__ = ["BUDGETS", "SUGGEST", "Budget", "budget_named", "starting_point"]
