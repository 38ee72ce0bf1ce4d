"""From what a recipe says of its mixture, in weights, tokens or epochs, to rows of each component."""

from __future__ import annotations

from collections.abc import Mapping

from openbook.errors import InputError
from openbook.recipe import Recipe
from openbook.tokens.order import Mixture, Plan, Targets, largest_remainder


def plan(recipe: Recipe, rows: Mapping[str, int]) -> Plan:
    """rows: that there are of each component. Targets are whole rows that add up exactly (largest remainder).

    Raises InputError if tokens are asked for that the cap on epochs does not allow.
    """
    parts = {name: recipe.corpus.components[name] for name in rows}
    caps = {name: part.max_epochs for name, part in parts.items()}
    if recipe.corpus.measure == "weight":
        return Mixture(rows, {name: part.amount for name, part in parts.items()}, caps)
    present = [name for name, count in rows.items() if count]
    if recipe.corpus.measure == "epochs":
        exact = [parts[name].amount * rows[name] for name in present]
    else:
        exact = [parts[name].amount / recipe.model.context for name in present]
        for name, wanted in zip(present, exact, strict=True):
            if wanted > caps[name] * rows[name] + 1:
                raise InputError(
                    f"corpus.components.{name}.tokens = {parts[name].tokens:,} is {wanted / rows[name]:.3g} times the "
                    f"{rows[name] * recipe.model.context:,} tokens that there are, and max_epochs = {caps[name]:g}; "
                    "ask for fewer tokens, raise max_epochs, or add text"
                )
    return Targets(rows, dict(zip(present, largest_remainder(exact, max(1, round(sum(exact)))), strict=True)))
