"""What plans are compared for: a stopping rule, a budget, or a rule within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ntkpredict.budget import Budget
from ntkpredict.cost import CostModel
from ntkpredict.machine import Machine
from ntkpredict.stopping import MaxSteps, StoppingRule, TargetLoss


@dataclass(frozen=True)
class Goal:
    """When a run is over.

    Attributes:
        until: the stopping rule; where None, a tenth of the initial training loss, or the end of
            the budget if there is one.
        within: the budget, if any.
        max_steps: of the plans.
    """

    until: StoppingRule | None
    within: Budget | None
    max_steps: int

    @property
    def rule(self) -> StoppingRule:
        """The stopping rule without the budget."""
        if self.until is not None:
            return self.until
        return TargetLoss(relative=0.1) if self.within is None else MaxSteps(self.max_steps)

    def rule_up_to(self, limit: int) -> StoppingRule:
        """The stopping rule of a run that may take so many steps."""
        if self.until is None and self.within is not None:
            return MaxSteps(max(limit, 1))
        return self.rule

    def limits(
        self, cost: CostModel, steps_per_epoch: int, machines: Sequence[Machine]
    ) -> list[int]:
        """The most steps that a run may take on each machine, at most the plans' own.

        Args:
            cost: on this machine.
            steps_per_epoch: between two validation passes.
            machines: where the run could be.
        """
        if self.within is None:
            return [self.max_steps] * len(machines)
        paid = [self.within.steps(cost, steps_per_epoch, machine) for machine in machines]
        return [min(steps, self.max_steps) for steps in paid]

    def note(self, most: int) -> tuple[str, ...]:
        """What to keep in mind where the budget pays for so many steps."""
        steps = Budget(self.max_steps, "steps")
        if self.within is None or most < self.max_steps or self.within == steps:
            return ()
        own = f"{self.max_steps:,}"
        return (f"{self.within} pays for more than the plans' own {own} steps; raise those.",)
