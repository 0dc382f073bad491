"""Checksums of national and device numbers. Each takes the bare characters, without separators, any case."""

from __future__ import annotations

import datetime

_CNPJ_WEIGHTS = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
_RESIDENT_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999
_VIN_VALUES = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", (1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9), strict=True))  # fmt: skip
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)  # ISO 3779


def is_cpf(digits: str) -> bool:
    """Brazilian tax number of a person, 11 digits."""
    if len(digits) != 11 or not digits.isdecimal() or len(set(digits)) == 1:
        return False
    return all(
        int(digits[size])
        == sum(int(d) * (size + 1 - i) for i, d in enumerate(digits[:size])) * 10 % 11 % 10
        for size in (9, 10)
    )


def is_cnpj(digits: str) -> bool:
    """Brazilian tax number of a company, 14 characters, letters allowed in the first 12 since 2026."""
    if len(digits) != 14 or not digits.isalnum() or not digits[12:].isdecimal():
        return False
    values = [ord(c) - 48 for c in digits.upper()]
    for size in (12, 13):
        rest = sum(v * w for v, w in zip(values, _CNPJ_WEIGHTS[13 - size :], strict=False)) % 11
        if values[size] != (0 if rest < 2 else 11 - rest):
            return False
    return True


def is_cns(digits: str) -> bool:
    """Brazilian health card (cartão SUS), 15 digits."""
    if len(digits) != 15 or not digits.isdecimal() or digits[0] not in "125789":
        return False
    return sum(int(d) * (15 - i) for i, d in enumerate(digits)) % 11 == 0


def is_resident_id(number: str) -> bool:
    """Chinese resident identity number, 18 characters with a birth date; the last may be X."""
    if len(number) != 18 or not number[:17].isdecimal() or number[17] not in "0123456789Xx":
        return False
    if not has_birth_date(number):
        return False
    rest = sum(int(d) * w for d, w in zip(number[:17], _RESIDENT_WEIGHTS, strict=True)) % 11
    return "10X98765432"[rest] == number[17].upper()


def has_birth_date(number: str) -> bool:
    """Whether characters 6 to 13 are a date, as in a resident identity number."""
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return "1850" < number[6:10] < "2100"


def is_luhn(digits: str) -> bool:
    """Bank cards; an NPI with 80840 before it (45 CFR 162.406)."""
    if not digits.isdecimal() or len(digits) < 8:
        return False
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_npi(digits: str) -> bool:
    """United States provider number, 10 digits."""
    return len(digits) == 10 and digits[0] in "12" and is_luhn("80840" + digits)


def is_dea(number: str) -> bool:
    """United States controlled-substance registration: two letters, seven digits."""
    if len(number) != 9 or not number[:1].isalpha() or not number[2:].isdecimal():
        return False
    d = [int(c) for c in number[2:]]
    return (d[0] + d[2] + d[4] + 2 * (d[1] + d[3] + d[5])) % 10 == d[6]


def is_vin(number: str) -> bool:
    """Vehicle identification number with its check digit (North America)."""
    number = number.upper()
    if len(number) != 17 or any(c not in _VIN_VALUES for c in number):
        return False
    rest = sum(_VIN_VALUES[c] * w for c, w in zip(number, _VIN_WEIGHTS, strict=True)) % 11
    return number[8] == ("X" if rest == 10 else str(rest))


def is_gtin(digits: str) -> bool:
    """Trade item number of a UDI, 14 digits."""
    if len(digits) != 14 or not digits.isdecimal():
        return False
    total = sum(int(d) * (3 if i % 2 == 0 else 1) for i, d in enumerate(digits[:13]))
    return (10 - total % 10) % 10 == int(digits[13])
