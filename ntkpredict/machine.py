"""Machines that a run could be launched on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ntkpredict.units import as_number

_MACHINE = re.compile(
    r"(?P<name>[^:]+)(:(?P<price>[0-9.eE+-]+)USD/h)?(:(?P<throughput>[0-9.eE+-]+)x)?"
)


@dataclass(frozen=True)
class Machine:
    """A machine, by its price and how fast it trains.

    Attributes:
        name: what tables call it.
        price: US dollars an hour, at least 0; None where it is not known.
        throughput: samples a second relative to this machine, where costs are measured.
    """

    name: str = "this machine"
    price: int | float | None = None
    throughput: int | float = 1.0

    def __post_init__(self) -> None:
        if self.price is not None and not 0 <= self.price < float("inf"):
            msg = f"price: got {self.price}; expected US dollars an hour, at least 0"
            raise ValueError(msg)
        if not 0 < self.throughput < float("inf"):
            msg = f"throughput: got {self.throughput}; expected a number greater than 0"
            raise ValueError(msg)

    @staticmethod
    def parse(text: str) -> Machine:
        """From text, as the command line takes it.

        >>> Machine.parse("a100:3.2USD/h:0.8x")
        Machine(name='a100', price=3.2, throughput=0.8)

        Raises:
            ValueError: something else, or a number outside of its range.
        """
        match = _MACHINE.fullmatch(text)
        given = {} if match is None else {k: v for k, v in match.groupdict().items() if v}
        name, numbers = given.pop("name", None), {k: as_number(v) for k, v in given.items()}
        if name is None or None in numbers.values():
            msg = f"machine: got {text!r}; expected NAME, NAME:3.2USD/h or NAME:3.2USD/h:0.8x"
            raise ValueError(msg)
        return Machine(name, **numbers)  # type: ignore[arg-type]

    def seconds(self, seconds: float) -> float:
        """There, of what takes so long here."""
        return seconds / self.throughput

    def cost(self, seconds: float | None) -> float | None:
        """US dollars, of what takes so long here; None where either is not known."""
        if self.price is None or seconds is None:
            return None
        return self.price * self.seconds(seconds) / 3600
