"""What a training's hour costs, as somebody's bill has it."""

from __future__ import annotations

from pydantic import Field, field_validator

from windtunnel.spec.base import Part

#: A GPU of any type that has no price of its own.
ANY = "*"


class Prices(Part):
    """A price table; what it leaves out is free.

    Attributes:
        currency: three letters (ISO 4217).
        cpu: one core for an hour.
        memory: one GiB for an hour.
        gpu: GPU type as ``resources.gpu_type`` has it -> one for an hour; ``TYPE/MIG`` or the MIG profile alone for a
            slice; ``*`` for all others.
        spot: part of the price that is not paid on interruptible nodes: 0.6 is 60 % less.
    """

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    cpu: float = Field(0.0, ge=0, allow_inf_nan=False)
    memory: float = Field(0.0, ge=0, allow_inf_nan=False)
    gpu: dict[str, float] = Field(default_factory=dict)
    spot: float = Field(0.0, ge=0, lt=1)

    @field_validator("gpu")
    @classmethod
    def _gpu(cls, value: dict[str, float]) -> dict[str, float]:
        for name, price in value.items():
            if not 0 <= price < float("inf"):
                raise ValueError(f"{name}: expected a price of 0 or more, found {price}")
        return value

    def of_gpu(self, gpu_type: str | None, mig: str | None) -> float | None:
        """One hour of one GPU, or of one slice; None where there is no price for it."""
        names = [f"{gpu_type}/{mig}", mig] if mig else [gpu_type]
        return next((self.gpu[name] for name in [*names, ANY] if name in self.gpu), None)
