"""Passengers: an identity that a number stands for, and how to reach them."""

from __future__ import annotations

from random import Random

_FIRST_M = (
    "ALEKSANDR SERGEY VLADIMIR ANDREY DMITRIY ALEKSEY MAKSIM EVGENIY IVAN MIKHAIL ARTUR YURIY"
    " NIKOLAY ILYA RUSLAN"
)
_FIRST_F = (
    "ELENA TATYANA IRINA OLGA NATALYA ANNA SVETLANA LYUDMILA MARINA EKATERINA YULIYA VALENTINA"
    " GALINA DARYA VERA"
)
_LAST = (
    "IVANOV KUZNECOV POPOV PETROV SMIRNOV VOLKOV FEDOROV MOROZOV KOZLOV NOVIKOV ROMANOV SOKOLOV"
    " LEBEDEV EGOROV ORLOV ANDREEV PAVLOV NIKITIN ZAKHAROV BORISOV GUSEV KISELEV MAKAROV FROLOV"
    " BELOV KARPOV MEDVEDEV ANTONOV TARASOV ZHUKOV BARANOV FILIPPOV KOMAROV DAVYDOV BELYAEV"
    " GERASIMOV BOGDANOV OSIPOV SIDOROV MATVEEV"
)
MEN, WOMEN, FAMILIES = _FIRST_M.split(), _FIRST_F.split(), _LAST.split()
_SPREAD = 7_368_787  # a prime: walks through all numbers below 10**10 without repeating


def passenger_id(number: int) -> str:
    """`8149 604011`: series and number of an identity document."""
    digits = f"{(number * _SPREAD + 149_604_011) % 10**10:010d}"
    return f"{digits[:4]} {digits[4:]}"


def passenger_name(number: int) -> str:
    """A name in capitals, the same for the same number."""
    woman, rest = number & 1, (number >> 1) * 7919
    first = (WOMEN if woman else MEN)[rest % 15]
    last = FAMILIES[rest // 15 % len(FAMILIES)]
    return f"{first} {last}A" if woman else f"{first} {last}"


def contact_data(number: int, name: str, random: Random) -> str | None:
    """A JSON object with phone and mostly email; now and then nothing at all."""
    chance = random.random()
    if chance < 0.02:
        return None
    phone = f"+70{(number * 48_271 + int(random.random() * 3)) % 10**9:09d}"
    if chance < 0.25:
        return f'{{"phone": "{phone}"}}'
    first, _, last = name.lower().partition(" ")
    return f'{{"email": "{first[0]}-{last}.{number % 10**6:06d}@example.com", "phone": "{phone}"}}'
