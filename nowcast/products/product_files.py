"""NetCDF files of products: each takes the members lead time by lead time and writes what it makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import netCDF4
import numpy as np

from nowcast.fields import SINGLES, Members, RainStart
from nowcast.forecaster import FORECAST_ATTRIBUTES
from nowcast.products.cf import RATES, Field, Labels, create_field, create_variable, define, define_times
from nowcast.products.cf import field_attributes as attributes_of

RATE_UNITS = FORECAST_ATTRIBUTES["units"]
SERIES = ("time", "y", "x")
REACHED = "greater_than_or_equal_to"


class Target(NamedTuple):
    """A new file and what it takes over from the forecast.

    Attributes:
        file: Empty.
        labels: Of the forecast.
        standard_name: Of its rate.
        packing: mm/h or mm for one step of an int16; None for float32.
    """

    file: netCDF4.Dataset
    labels: Labels
    standard_name: str
    packing: float | None


class ProductFile(ABC):
    """A file that is written lead time by lead time.

    Args:
        target: Where to write.
    """

    title: ClassVar[str]
    """What the title of the forecast is followed by."""

    def __init__(self, target: Target) -> None:
        self.target = target
        define(target.file, target.labels, title=f": {self.title}")

    @abstractmethod
    def add(self, lead: int, values: np.ndarray, members: Members) -> None:
        """Take the next lead time.

        Args:
            lead: Its number.
            values: mm/h, (M, y, x).
            members: The same.
        """

    def finish(self) -> None:  # noqa: B027 (most have nothing to do)
        """Write what is known when all lead times were taken."""

    def field(self, name: str, dims: tuple[str, ...], told: dict[str, Any], *, packed: bool = False) -> Field:
        """A variable on the grid."""
        return create_field(
            self.target.file, name, dims, told, packing=self.target.packing if packed else None
        )

    def axis(self, name: str, values: Sequence[float], **told: str) -> None:
        """A dim of thresholds or percentiles."""
        self.target.file.createDimension(name, len(values))
        create_variable(self.target.file, name, "f8", (name,), np.asarray(values), **told)

    def probabilities(self, name: str, called: str, units: str, thresholds: Sequence[float]) -> Field:
        """Probabilities that a quantity reaches thresholds."""
        told = {"standard_name": name, "long_name": f"threshold of the {called}", "units": units}
        self.axis("threshold", thresholds, **told, spp__relative_to_threshold=REACHED)
        told = attributes_of(None, f"probability that the {called} reaches a threshold", "1", comment="Share "
                             "of the members that have a value in the cell.")  # fmt: skip
        return self.field(f"probability_of_{name}_above_threshold", ("threshold", *SERIES), told)

    def percentiles(
        self, name: str, called: str, units: str, percentiles: Sequence[float], **told: str
    ) -> Field:
        """Percentiles of a quantity."""
        self.axis("percentile", percentiles, long_name="percentile of the members", units="%")
        told = attributes_of(name, f"percentiles of the {called}", units, **told, comment="Of the members "
                             "that have a value in the cell; between two of them linear.")  # fmt: skip
        return self.field(f"{name}_percentiles", ("percentile", *SERIES), told, packed=True)


class MeanFile(ProductFile):
    """Mean and probability-matched mean of the members."""

    title = "mean of the members"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        define_times(target.file, target.labels, target.labels.lead_times)
        name = target.standard_name
        self._fields = {}
        kinds = SINGLES if target.labels.members > 1 else ("mean",)  # of one member, both are that member
        for kind in kinds:
            told = attributes_of(name, "", RATE_UNITS) | dict(SINGLES[kind].attributes)
            self._fields[kind] = self.field(f"{name}_{kind}", SERIES, told, packed=True)

    def add(self, lead: int, values: np.ndarray, members: Members) -> None:  # noqa: ARG002
        """See `ProductFile.add`."""
        for kind, field in self._fields.items():
            field.write(lead, SINGLES[kind].of_members(members))


class PercentilesFile(ProductFile):
    """Percentiles of the members.

    Args:
        target: Where to write.
        percentiles: %.
    """

    title = "percentiles of the members"

    def __init__(self, target: Target, percentiles: Sequence[float]) -> None:
        super().__init__(target)
        define_times(target.file, target.labels, target.labels.lead_times)
        name = target.standard_name
        self._levels = percentiles
        self._field = self.percentiles(name, RATES[name].rate_name, RATE_UNITS, percentiles,
                                       cell_methods="time: point")  # fmt: skip

    def add(self, lead: int, values: np.ndarray, members: Members) -> None:  # noqa: ARG002
        """See `ProductFile.add`."""
        for number, level in enumerate(self._levels):
            self._field.write((number, lead), members.percentile(level))


class ProbabilityFile(ProductFile):
    """Probabilities that the rate reaches thresholds.

    Args:
        target: Where to write.
        thresholds: mm/h.
    """

    title = "probabilities of exceedance"

    def __init__(self, target: Target, thresholds: Sequence[float]) -> None:
        super().__init__(target)
        define_times(target.file, target.labels, target.labels.lead_times)
        name = target.standard_name
        self._thresholds = thresholds
        self._field = self.probabilities(name, RATES[name].rate_name, RATE_UNITS, thresholds)

    def add(self, lead: int, values: np.ndarray, members: Members) -> None:  # noqa: ARG002
        """See `ProductFile.add`."""
        for number, threshold in enumerate(self._thresholds):
            self._field.write((number, lead), members.probability(threshold))


class AccumulationFile(ProductFile):
    """Amounts from the reference time on; each rate stands for the step that ends at its time.

    Args:
        target: Where to write.
        leads: Numbers of the lead times at which a period ends.
        percentiles: %; none of one member.
        thresholds: mm.
    """

    title = "accumulations from the reference time on"

    def __init__(
        self, target: Target, leads: Sequence[int], percentiles: Sequence[float], thresholds: Sequence[float]
    ) -> None:
        super().__init__(target)
        seconds = target.labels.lead_times
        self._leads, self._levels, self._thresholds = list(leads), percentiles, thresholds
        self._hours = np.diff(seconds, prepend=0).astype(np.float32) / 3600
        self._sums: np.ndarray = np.zeros((), dtype=np.float32)
        self._times(seconds[self._leads])
        quantity = RATES[target.standard_name]
        name, called, units = quantity.amount, quantity.amount_name, quantity.amount_units
        told = attributes_of(name, f"ensemble mean of the {called}", units,
                             cell_methods="time: sum")  # fmt: skip
        self._mean = self.field(f"{name}_mean", SERIES, told, packed=True)
        if self._levels:
            told = {"cell_methods": "time: sum"}
            self._percentiles = self.percentiles(name, called, units, percentiles, **told)
        self._probability = self.probabilities(name, called, units, thresholds)

    def add(self, lead: int, values: np.ndarray, members: Members) -> None:  # noqa: ARG002
        """See `ProductFile.add`."""
        if lead > self._leads[-1]:
            return
        step = values * self._hours[lead]
        self._sums = step if lead == 0 else np.add(self._sums, step, out=self._sums)
        if lead not in self._leads:
            return
        amounts, place = Members(self._sums), self._leads.index(lead)
        self._mean.write(place, amounts.mean())
        for number, level in enumerate(self._levels):
            self._percentiles.write((number, place), amounts.percentile(level))
        for number, threshold in enumerate(self._thresholds):
            self._probability.write((number, place), amounts.probability(threshold))

    def _times(self, seconds: np.ndarray) -> None:
        """The ends of the periods, and their bounds."""
        file, labels = self.target.file, self.target.labels
        define_times(file, labels, seconds, bounds="time_bnds")
        file.createDimension("bnds", 2)
        start = int(labels.reference_time.astype(np.int64))
        bounds = start + np.column_stack([np.zeros_like(seconds), seconds])
        create_variable(file, "time_bnds", "i8", ("time", "bnds"), bounds)


class RainStartFile(ProductFile):
    """When rain starts.

    Args:
        target: Where to write.
        threshold: Of rain, mm/h.
        probability: At which rain is taken to start.
    """

    title = "start of the rain"

    def __init__(self, target: Target, *, threshold: float, probability: float) -> None:
        super().__init__(target)
        size = target.labels.coordinates.sizes
        self._starts = RainStart((size["y"], size["x"]), threshold=threshold, probability=probability)
        likely = f"a rate of {threshold:g} mm/h or more has a probability of {probability:g} or more"
        start = attributes_of(None, "time from the reference time to the start of the rain", "min",
                              comment=f"The first lead time at which {likely}.")  # fmt: skip
        start |= {"coordinates": "forecast_reference_time lat lon",
                  "ancillary_variables": "input_frame_status rain_start_status"}  # fmt: skip
        self._start = self.field("rain_start", ("y", "x"), start)
        first = target.labels.lead_times[0] / 60
        status = {
            "standard_name": "status_flag", "long_name": "whether rain starts", "grid_mapping": "crs",
            "coordinates": "forecast_reference_time lat lon",
            "flag_values": np.arange(len(RainStart.MEANINGS), dtype=np.int8),
            "flag_meanings": " ".join(RainStart.MEANINGS),
            "comment": f"raining_now: {likely} at the first lead time, {first:g} min; rain_later: at a later "
            "one; no_data: there is no value at any lead time; no_rain_as_far_as_known: values at some lead "
            "times alone, without such rain.",
        }  # fmt: skip
        self._status = target.file.createVariable(
            "rain_start_status", "i1", ("y", "x"), fill_value=False, compression="zlib", complevel=1,
            chunksizes=(size["y"], size["x"]),
        )  # fmt: skip
        self._status.setncatts(status)

    def add(self, lead: int, values: np.ndarray, members: Members) -> None:  # noqa: ARG002
        """See `ProductFile.add`."""
        self._starts.add(members)

    def finish(self) -> None:
        """See `ProductFile.finish`."""
        start, status = self._starts.result(self.target.labels.lead_times / 60)
        self._start.write(slice(None), start)
        self._status[...] = status
