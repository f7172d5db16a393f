"""The nine aircraft with their seat maps, and the airports."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

CLASSES = ("Economy", "Comfort", "Business")


@dataclass(frozen=True)
class Aircraft:
    """A type of aircraft; `cabins` are (class, letters of a row, seats) from the nose on."""

    code: str
    model_en: str
    model_ru: str
    range_km: int
    speed_kmh: int
    cabins: tuple[tuple[str, str, int], ...]

    @cached_property
    def seats(self) -> dict[str, list[str]]:
        """Seat numbers by class: rows are numbered through the cabins, the last row of a cabin may
        be short."""
        found: dict[str, list[str]] = {}
        first_row = 1
        for fare_class, letters, count in self.cabins:
            width = len(letters)
            found[fare_class] = [
                f"{first_row + i // width}{letters[i % width]}" for i in range(count)
            ]
            first_row += math.ceil(count / width)
        return found


def _jet(code: str, en: str, ru: str, range_km: int, *cabins: tuple[str, str, int]) -> Aircraft:
    return Aircraft(code, en, ru, range_km, 830, cabins)


FLEET = (
    _jet(
        "773",
        "Boeing 777-300",
        "Боинг 777-300",
        11100,
        ("Business", "ACDGHK", 30),
        ("Comfort", "ACDEFGHK", 48),
        ("Economy", "ABCDEFGHK", 324),
    ),
    _jet(
        "763",
        "Boeing 767-300",
        "Боинг 767-300",
        7900,
        ("Business", "ABCFGH", 30),
        ("Economy", "ABCDFGH", 192),
    ),
    _jet(
        "SU9",
        "Sukhoi Superjet-100",
        "Сухой Суперджет-100",
        3000,
        ("Business", "ACDF", 12),
        ("Economy", "ACDEF", 85),
    ),
    _jet(
        "320",
        "Airbus A320-200",
        "Аэробус A320-200",
        5700,
        ("Business", "ACDF", 20),
        ("Economy", "ABCDEF", 120),
    ),
    _jet(
        "321",
        "Airbus A321-200",
        "Аэробус A321-200",
        5600,
        ("Business", "ACDF", 28),
        ("Economy", "ABCDEF", 142),
    ),
    _jet(
        "319",
        "Airbus A319-100",
        "Аэробус A319-100",
        6700,
        ("Business", "ACDF", 20),
        ("Economy", "ABCDEF", 96),
    ),
    _jet(
        "733",
        "Boeing 737-300",
        "Боинг 737-300",
        4200,
        ("Business", "ACDF", 12),
        ("Economy", "ABCDEF", 118),
    ),
    Aircraft(
        "CN1", "Cessna 208 Caravan", "Сессна 208 Караван", 1200, 300, (("Economy", "AB", 12),)
    ),
    _jet("CR2", "Bombardier CRJ-200", "Бомбардье CRJ-200", 2700, ("Economy", "ACDF", 50)),
)
AIRCRAFT = {aircraft.code: aircraft for aircraft in FLEET}


@dataclass(frozen=True)
class Airport:
    """An airport with its names in English and Russian."""

    code: str
    name_en: str
    name_ru: str
    city_en: str
    city_ru: str
    longitude: float
    latitude: float
    timezone: str

    def distance_km(self, other: Airport) -> float:
        """Along the great circle."""
        lat1, lat2 = math.radians(self.latitude), math.radians(other.latitude)
        across = math.radians(other.longitude - self.longitude)
        cosine = math.sin(lat1) * math.sin(lat2) + math.cos(lat1) * math.cos(lat2) * math.cos(
            across
        )
        return 6371.0 * math.acos(min(1.0, max(-1.0, cosine)))


def airports() -> list[Airport]:
    """The 104 airports of airports.csv, in its order."""
    with Path(__file__).with_name("airports.csv").open(encoding="utf-8", newline="") as file:
        return [_airport(row) for row in csv.DictReader(file)]


def _airport(row: dict[str, str]) -> Airport:
    """The airport in one line of airports.csv."""
    place = {"longitude": float(row["longitude"]), "latitude": float(row["latitude"])}
    return Airport(**{**row, **place})  # type: ignore[arg-type]
